"""T13: documents from strangers are stored exactly, or rejected with a code.

Each crafted folder and each file of random bytes is read in a child process: documents found,
checked again and cut into passages. What comes out must be the bytes that went in, by an oracle of
its own for text and JSON Lines; nothing may hang, bloat, raise, or show what lies outside.

    python benchmarks/reliability/document_fuzz.py [--random 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import hostile_documents as hostile
from case_runner import CaseRunner, Outcome

from adapterdb.config import ChunkConfig, LimitConfig
from adapterdb.errors import Rejected
from adapterdb.ingest import rejection
from adapterdb.ingest.chunking import Chunker
from adapterdb.ingest.readers import Rejection, check_document, read_documents
from adapterdb.records import Document

SECONDS = 10.0
GROWTH_BYTES = 1200 * hostile.MB  # a line of JSON Lines holds 40 MB, as Python objects up to 25 x
CODES = {line.split()[0] for line in (rejection.__doc__ or "").splitlines()[2:] if line[:1].strip()}


def read_all(folder: str) -> tuple[Counter[str], list[str]]:
    """How often each thing came of the files in ``folder``, and what is wrong with it."""
    limits, wrong, counts = LimitConfig(), [], Counter[str]()
    for item in read_documents(folder, limits=limits):
        shown = json.dumps(item.to_dict())
        if hostile.CANARY in shown:
            wrong.append(f"{item.name!r} shows the canary")
        if isinstance(item, Rejection):
            counts[item.code] += 1
            if item.code not in CODES or not item.name.isprintable():
                wrong.append(f"{item.name!r} is rejected as {item.code!r}")
            continue
        counts["read"] += 1
        wrong += _wrong(item, Path(folder), limits)
    return counts, wrong


def _wrong(document: Document, folder: Path, limits: LimitConfig) -> list[str]:
    """What does not hold of a document that was read."""
    try:
        again = check_document(document, limits)
    except Rejected as error:
        return [f"{document.name!r} does not pass its own check: {error.code}"]
    wrong = [] if again == document else [f"{document.name!r} changes when checked again"]
    want = _expected(document, folder)
    sha = hashlib.sha256(document.text.encode()).hexdigest()
    if want is not None and sha != hashlib.sha256(want.encode()).hexdigest():
        wrong.append(f"{document.name!r} is not the text of its file")
    passages = Chunker(lambda text: (len(text) + 3) // 4, ChunkConfig()).split(document.text)
    for passage in passages:
        if passage.text != document.text[passage.start : passage.end]:
            wrong.append(f"{document.name!r}: passage {passage.ordinal} is not in its text")
    return wrong


def _expected(document: Document, folder: Path) -> str | None:
    """The text by another way, for the formats where there is one."""
    path = folder / document.name
    if document.source.rpartition(":")[0].endswith(".jsonl"):
        source, _, number = document.source.rpartition(":")
        line = Path(source).read_bytes().split(b"\n")[int(number) - 1]
        return str(json.loads(line.decode("utf-8-sig"))["text"])
    if path.suffix != ".txt" or not path.exists():
        return None
    data = path.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def judged(outcome: Outcome, allowed: str = "") -> list[str]:
    """What an outcome breaks."""
    wrong = [outcome.failed] if outcome.failed else list(outcome.value[1])
    if outcome.seconds > SECONDS:
        wrong.append(f"took {outcome.seconds:.1f} s")
    if outcome.grown_bytes > GROWTH_BYTES:
        wrong.append(f"grew by {outcome.grown_bytes / 2**20:.0f} MB")
    if allowed and not outcome.failed:
        odd = set(outcome.value[0]) - set(allowed.split())
        if odd or (not outcome.value[0] and allowed != "passed"):
            wrong.append(f"became {dict(outcome.value[0])}, allowed is {allowed}")
    return wrong


def main(argv: list[str] | None = None) -> dict[str, Any]:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--random", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the one crafted case to run", default="")
    options = parser.parse_args(argv)
    cases: list[tuple[str, Any, str]] = [
        *((name, name, hostile.CONTENTS[name][2]) for name in hostile.CONTENTS),
        *((place.__name__, place, allowed) for place, allowed in hostile.PLACES.items()),
    ]
    source, failures = random.Random(options.seed), list[str]()
    counts, slowest, largest = Counter[str](), (0.0, ""), (0, "")
    with tempfile.TemporaryDirectory() as base, CaseRunner(read_all, SECONDS + 5) as runner:
        (Path(base) / "outside.txt").write_text(hostile.CANARY)
        chosen = [case for case in cases if options.only in ("", case[0])]
        made = [(f"random {i}", None, "") for i in range(options.random)]
        for i, (name, case, allowed) in enumerate(chosen + made):
            folder = Path(base) / f"{i}"
            folder.mkdir()
            if case is None:
                suffix, data = hostile.random_content(source)
                (folder / f"case{suffix}").write_bytes(data)
            elif isinstance(case, str):
                hostile.make_content(case, folder)
            else:
                case(folder)
            outcome = runner.run(str(folder))
            wrong = judged(outcome, allowed)
            failures += [f"{name}: {what}" for what in wrong]
            counts.update(outcome.value[0] if outcome.value else [])
            slowest = max(slowest, (outcome.seconds, name))
            largest = max(largest, (outcome.grown_bytes, name))
            if wrong:
                print("WRONG", failures[-len(wrong) :], flush=True)
            subprocess.run(["rm", "-rf", folder], check=True)  # deeper than Python can remove
    result = {
        "test": "T13",
        "seed": options.seed,
        "crafted": len(chosen),
        "random": options.random,
        "became": dict(counts.most_common()),
        "slowest_s": [round(slowest[0], 2), slowest[1]],
        "largest_mb": [round(largest[0] / 2**20), largest[1]],
        "failures": failures,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["failures"] else 0)
