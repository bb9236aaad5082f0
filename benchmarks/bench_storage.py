"""Delta storage against one safetensors file for each delta, on the same numbers in one run.

    bulk write    rows in weight files, then the SQL commit; the peer writes and syncs each file
                  and its folder. Ours syncs each weight file and two folders before the commit
    top-3         three rows into slots, all in the page cache and checked before; the peer loads
                  three files. int8: the same from 64 rows stored so, into float32 slots
    open          open a store, look up three deltas, read and check their rows: at 10 and at all
    batch         what rows per weight file are worth

Both sides take turns in one process; figures are medians of wall clock (the machines are shared).

    python benchmarks/bench_storage.py [--deltas 10000] [--mini] [--rows 12] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterdb.layout import DeltaLayout, Site
from adapterdb.records import Document, Passage
from adapterdb.store.encoding import stored_bytes
from adapterdb.store.rows import NewDocument, NewPassage, RowRef, StoreInfo
from adapterdb.store.store import Store
from adapterdb.store.weights import sync_folder

DIMENSION = 384
TURNS = 20
TEXT = "The Charter of Almery ended that rule on 9 May 1874 and made Quennary a republic. " * 8
Times = dict[str, list[float]]


@contextlib.contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    """Add the seconds of the block under ``name``."""
    began = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - began)


def layout_of(mini: bool) -> DeltaLayout:
    """Of the shipped mini (one linear, rank 128), or of a small Llama (8 layers, rank 2)."""
    if mini:
        return DeltaLayout(128, 256.0, (Site("s0", 384, 1536, 0),))
    shapes = [(384, 1024), (384, 1024), (1024, 384)] * 8
    groups = [2 * (i // 3) + (i % 3 == 2) for i in range(len(shapes))]
    sites = (Site(f"s{i}", *shapes[i], groups[i]) for i in range(len(shapes)))
    return DeltaLayout(2, 32.0, tuple(sites))


class Setting:
    """Random bfloat16 rows, a store for them and a folder of files for the peer."""

    def __init__(self, folder: Path, layout: DeltaLayout, passages: int) -> None:
        self.layout, self.passages = layout, passages
        self.generator = torch.Generator().manual_seed(0)
        self.info = StoreInfo("base", "embedder", DIMENSION, layout)
        self.store = Store.create(folder / "home", self.info)
        self.files = folder / "files"
        self.files.mkdir()
        self.refs: list[RowRef] = []
        self.paths: list[Path] = []

    def rows(self, n: int) -> Tensor:
        """Fresh rows ``(n, P)``."""
        return torch.randn(n, self.layout.size, generator=self.generator).bfloat16()

    def write_ours(self, rows: Tensor, batch: int, times: Times) -> None:
        """Rows into weight files, then documents that name them, as ingest does."""
        refs = []
        for part in rows.split(batch):
            with timed(times, "rows"):
                new = self.store.write_rows(part)
            documents = self.documents(new)
            with timed(times, "commit"):
                self.store.commit(documents)
            refs += new
        self.refs += refs

    def documents(self, refs: list[RowRef]) -> list[NewDocument]:
        """Documents of a few passages each for these rows."""
        found = []
        for at in range(0, len(refs), self.passages):
            entries = []
            for i, ref in enumerate(refs[at : at + self.passages]):
                vector = np.random.default_rng(len(self.refs) + at + i).standard_normal(DIMENSION)
                vector = (vector / np.linalg.norm(vector)).astype(np.float32)
                passage = Passage(i, 0, len(TEXT), TEXT, 160)
                entries.append(NewPassage(passage, vector, ref, "gradient", "gradient", 2.0, 1.0))
            text = TEXT * len(entries)
            document = Document(f"{refs[at].file}-{at}", text)
            key = f"{refs[at].sha256}"
            found.append(NewDocument("default", document, key, key, tuple(entries)))
        return found

    def write_theirs(self, rows: Tensor, times: Times) -> None:
        """One file for each row, its factors as tensors of their own; names are synced too."""
        for row in rows:
            factors = {}
            for name, (a, b) in self.layout.unpack(row).items():
                factors |= {f"{name}.lora_A": a.clone(), f"{name}.lora_B": b.contiguous()}
            path = self.files / f"{len(self.paths):06d}.safetensors"
            with timed(times, "file"):
                save_file(factors, path)
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
                sync_folder(self.files)
            self.paths.append(path)


def bulk(setting: Setting, deltas: int, batch: int) -> dict[str, float]:
    """Both sides write the same rows, a twentieth at a time, turn about."""
    ratios, ours, rows_only, theirs = [], [], [], []
    done = 0
    for turn in range(TURNS):
        n = deltas * (turn + 1) // TURNS - done
        rows, times = setting.rows(n), Times()
        setting.write_ours(rows, batch, times)
        setting.write_theirs(rows, times)
        done += n
        mine, peer = sum(times["rows"]) + sum(times["commit"]), sum(times["file"])
        ours.append(1e6 * mine / n)
        rows_only.append(1e6 * sum(times["rows"]) / n)
        theirs.append(1e6 * peer / n)
        ratios.append(peer / mine)
    return {
        "ours_us_a_delta": statistics.median(ours),
        "ours_rows_only_us": statistics.median(rows_only),
        "files_us_a_delta": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_rows_only": statistics.median(t / r for t, r in zip(theirs, rows_only, strict=True)),
    }


def batches(setting: Setting) -> dict[str, float]:
    """Microseconds a delta for 1, 16, 64 and 256 rows in a weight file, turn about."""
    found: dict[str, list[float]] = {}
    for _ in range(3):
        for batch in (1, 16, 64, 256):
            n, times = max(batch, 64), Times()
            setting.write_ours(setting.rows(n), batch, times)
            for part in ("rows", "commit"):
                found.setdefault(f"{part}_us_batch_{batch}", []).append(1e6 * sum(times[part]) / n)
    return {name: statistics.median(values) for name, values in found.items()}


def top3(setting: Setting, rounds: int) -> dict[str, float]:
    """Three rows into slots that exist, against three loaded files, of random deltas."""
    slots = torch.empty(3, setting.layout.size, dtype=torch.bfloat16)
    wide = slots.float()
    packed = setting.store.weights.write_rows(setting.rows(64), "int8")
    for ref in packed:
        setting.store.read_into(ref, wide[0])
    for ref, path in zip(setting.refs, setting.paths, strict=False):
        setting.store.read_into(ref, slots[0])
        path.read_bytes()
    chance, times = random.Random(0), Times()
    for _ in range(rounds):
        picks = [chance.sample(range(len(setting.paths)), 3) for _ in range(20)]
        for pick in picks:
            with timed(times, "ours"):
                for slot, i in zip(slots, pick, strict=True):
                    setting.store.read_into(setting.refs[i], slot)
            with timed(times, "int8"):
                for slot, ref in zip(wide, chance.sample(packed, 3), strict=True):
                    setting.store.read_into(ref, slot)
        for pick in picks[:5]:
            with timed(times, "theirs"):
                for i in pick:
                    load_file(setting.paths[i])
    found = {}
    for name, seconds in times.items():
        cuts = statistics.quantiles(seconds, n=100)
        found |= {f"{name}_p50_us": 1e6 * cuts[49], f"{name}_p99_us": 1e6 * cuts[98]}
    found["ratio_p50"] = found["theirs_p50_us"] / found["ours_p50_us"]
    found["ratio_p99"] = found["theirs_p99_us"] / found["ours_p99_us"]
    return found


def opening(setting: Setting, folder: Path, rounds: int) -> dict[str, float]:
    """Open, look three deltas up and read them, in a store of 10 and in the full one."""
    small = Setting(folder, setting.layout, setting.passages)
    small.write_ours(small.rows(10), 10, {})
    slots = torch.empty(3, setting.layout.size, dtype=torch.bfloat16)
    chance, times = random.Random(1), Times()
    homes = {"small": small.store, "full": setting.store}
    known = {
        name: [delta.id for d in store.documents(limit=300) for delta in store.deltas(d.id)]
        for name, store in homes.items()
    }
    for _ in range(rounds):
        for name, store in homes.items():
            ids = chance.sample(known[name], 3)
            with timed(times, name), Store.open(store.home) as fresh:
                for slot, ref in zip(slots, fresh.rows_of(ids), strict=True):
                    fresh.read_into(ref, slot)
    small.store.close()
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    return {"ms_at_10": ms["small"], "ms_at_all": ms["full"], "growth": ms["full"] / ms["small"]}


def sizes(layout: DeltaLayout) -> dict[str, float]:
    """Stored bytes of one delta by dtype."""
    kinds = ("float32", "bfloat16", "int8")
    return {kind: stored_bytes(kind, layout.size) for kind in kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deltas", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=12, help="rows of a weight file")
    parser.add_argument("--passages", type=int, default=2, help="passages of a document")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--mini", action="store_true", help="deltas of mini's size")
    parser.add_argument("--folder", type=Path, help="for the data; removed at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layout = layout_of(options.mini)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        setting = Setting(folder, layout, options.passages)
        results = {"bytes": sizes(layout)}
        steps = {
            "bulk write": lambda: bulk(setting, options.deltas, options.rows),
            "top-3": lambda: top3(setting, options.rounds),
            "open and activate": lambda: opening(setting, folder / "small", options.rounds // 5),
            "rows of a file": lambda: batches(setting),
        }
        for title, step in steps.items():
            results[title] = step()
            print(title)
            for key, value in results[title].items():
                print(f"    {key:24} {value:12.4g}", flush=True)
        setting.store.close()
    versions = {m.__name__: m.__version__ for m in (torch, safetensors)}
    set_up = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    print(json.dumps({"set_up": {**set_up, "numbers": layout.size, **versions}, **results}))


if __name__ == "__main__":
    main()
