"""T12: an adapter from a stranger is what peft would load, or refused; a stored one is intact.

PEFT folders are crafted and mutated and given to ``read_peft`` in a child process; what it accepts
must have the update ``B A alpha / r`` that peft itself makes of the same folder. Stored weight
files are mutated and read through the store: a row is the one written or Corrupt, and ``check``
says so.

    python benchmarks/reliability/delta_fuzz.py [--mutants 5000] [--stored 500] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hostile_deltas as hostile
import peft
import small_store
import torch
from case_runner import CaseRunner, Outcome
from safetensors.torch import load_file, save_file

from adapterdb.errors import AdapterDBError
from adapterdb.layout import DeltaLayout, Site
from adapterdb.peft_format import WEIGHTS_FILE, read_peft, write_peft
from adapterdb.store import Store
from adapterdb.store.upkeep.check import check

LAYOUT = DeltaLayout(2, 4.0, (Site("layers.0.up", 20, 12, 0), Site("layers.0.down", 12, 20, 1)))
SECONDS, GROWTH_BYTES = 2.0, 300 * 2**20


def make_folder(folder: Path, seed: int = 0) -> None:
    """A good PEFT folder of ``LAYOUT``."""
    row = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))
    write_peft(folder, row, LAYOUT, base_model="some/base")


def read_folder(folder: str) -> str:
    """``valid``, the code of the refusal, or what is wrong with having taken the folder."""
    try:
        row = read_peft(Path(folder), LAYOUT)
    except AdapterDBError as error:
        return error.code if len(str(error)) < 2000 else "the message is long"
    if row.shape != (LAYOUT.size,) or row.dtype != torch.float32 or not row.isfinite().all():
        return f"accepted {tuple(row.shape)} {row.dtype}, finite: {bool(row.isfinite().all())}"
    theirs = _by_peft(Path(folder))
    for name, (a, b) in LAYOUT.unpack(row).items():
        if not torch.allclose(b @ a * LAYOUT.scale, theirs[name], rtol=1e-4, atol=1e-30):
            return f"accepted, but {name} is not what peft loads"
    return "valid"


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(20, 12), torch.nn.Linear(12, 20)


class _Base(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([_Layer()])


def _by_peft(folder: Path) -> dict[str, torch.Tensor]:
    """The update of each module as peft makes it; none where peft adapts nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel(_Base(), peft.LoraConfig.from_pretrained(str(folder)))
        result = peft.set_peft_model_state_dict(model, load_file(folder / WEIGHTS_FILE))
    assert not result.unexpected_keys, f"peft ignores {result.unexpected_keys}"
    lacking = [key for key in result.missing_keys if "lora_" in key]
    assert not lacking, f"peft lacks {lacking}"
    found = {}
    for site in LAYOUT.sites:
        module = model.base_model.model.get_submodule(site.name)
        adapted = hasattr(module, "get_delta_weight")
        zero = torch.zeros(site.out_features, site.in_features)
        found[site.name] = module.get_delta_weight("default") if adapted else zero
    return found


def make_home(base: Path) -> Path:
    """A home with rows in two files and a file of tensors; the rows as they are beside it."""
    home = base / "home"
    with small_store.create(home) as store:
        small_store.add(store, {f"d{i}": f"text number {i}" for i in range(4)})
        small_store.add(store, {"e": "another"})
        store.write_tensors("start", {"theta": torch.arange(6.0).reshape(2, 3)})
        rows = {delta: store.read_row(ref).float() for delta, ref in store.catalog.all_row_refs()}
    save_file(rows, base / "wanted.safetensors")
    return home


STORED = ("cut", "flip", "header", "insert", "hostile", "other", "gone", "folder")


def mutate_stored(home: Path, source: random.Random, kinds: tuple[str, ...] = STORED) -> None:
    """Damage one weight file, or put a hostile one in its place."""
    path = source.choice(sorted((home / "weights").glob("??/*.safetensors")))
    before = path.read_bytes()
    data = bytearray(before)
    kind = source.choice(kinds)
    if kind == "cut":
        del data[source.randrange(len(data)) :]
    elif kind == "flip":
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    elif kind == "header":
        data[source.randrange(min(len(data), 200))] = source.randrange(256)
    elif kind == "insert":
        at = source.randrange(len(data) + 1)
        data[at:at] = source.randbytes(8)
    elif kind == "hostile":
        head = source.choice((b"[" * 10**5, b"{}", b"null", b'{"rows": {"shape": [1e9, "x"]}}'))
        data = bytearray(hostile.joined(head, bytes(640)))
    elif kind == "other":
        data = bytearray((home.parent / "wanted.safetensors").read_bytes())
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(data)
    if kind in ("gone", "folder") or bytes(data) != before:
        (home / "touched").touch()


def read_store(home: str) -> str:
    """``intact``, ``corrupt``, or what is wrong with how the store takes a mutated file."""
    wanted, states = load_file(Path(home).parent / "wanted.safetensors"), set[str]()
    with Store.open(Path(home), read_only=True) as store:
        for delta_id, ref in store.catalog.all_row_refs():
            try:
                same = torch.equal(store.read_row(ref).float(), wanted[delta_id])
                states.add("intact" if same else "used")
            except AdapterDBError:
                states.add("corrupt")
        try:
            store.read_tensors("start")
        except AdapterDBError:
            states.add("corrupt")
        found = any(finding.severity == "error" for finding in check(store, deep=True))
    if "used" in states:
        return "a damaged row was used"
    if found != (Path(home) / "touched").exists():
        return f"check finds {'something' if found else 'nothing'}"
    return "corrupt" if "corrupt" in states else "intact"


def judged(outcome: Outcome) -> str:
    """What an outcome breaks, or nothing."""
    if outcome.failed:
        return outcome.failed
    if outcome.seconds > SECONDS:
        return f"took {outcome.seconds:.1f} s"
    if outcome.grown_bytes > GROWTH_BYTES:
        return f"grew by {outcome.grown_bytes / 2**20:.0f} MB"
    return outcome.value if " " in outcome.value else ""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--stored", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    source = random.Random(options.seed)
    failures: list[str] = []
    became, slowest, largest = Counter[str](), 0.0, 0

    def judge(name: str, outcome: Outcome, allowed: str = "") -> None:
        nonlocal slowest, largest
        wrong = judged(outcome)
        if not wrong and allowed and outcome.value != allowed:
            wrong = f"became {outcome.value}, allowed is {allowed}"
        became[str(outcome.value)] += 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.grown_bytes)
        if wrong:
            failures.append(f"{name}: {wrong}")
            print("WRONG", failures[-1], flush=True)

    with tempfile.TemporaryDirectory() as base:
        canary, good = Path(base) / "canary", Path(base) / "good"
        make_folder(good)
        crafted = hostile.crafted(canary)
        with CaseRunner(read_folder, 10 * SECONDS) as runner:
            runner.run(str(good))  # what is loaded only once is not counted
            for i, (name, (craft, allowed)) in enumerate(crafted.items()):
                folder = Path(base) / f"crafted{i}"
                shutil.copytree(good, folder)
                craft(folder)
                judge(name, runner.run(str(folder)), allowed)
                shutil.rmtree(folder)
            for i in range(options.mutants):
                folder = Path(base) / "mutant"
                shutil.copytree(good, folder)
                kind = hostile.mutate(folder, source)
                judge(f"mutant {i} ({kind})", runner.run(str(folder)))
                shutil.rmtree(folder)
        with CaseRunner(read_store, 10 * SECONDS) as runner:
            whole = make_home(Path(base))
            runner.run(str(whole))
            for i in range(options.stored):
                home = Path(base) / "mutated"
                shutil.copytree(whole, home)
                mutate_stored(home, source)
                judge(f"stored {i}", runner.run(str(home)))
                shutil.rmtree(home)
        if canary.exists():
            failures.append("the pickle canary fired")
    result = {
        "test": "T12",
        "seed": options.seed,
        "crafted": len(crafted),
        "mutants": options.mutants,
        "stored": options.stored,
        "became": dict(became.most_common()),
        "slowest_s": round(slowest, 3),
        "largest_mb": round(largest / 2**20),
        "failures": failures,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["failures"] else 0)
