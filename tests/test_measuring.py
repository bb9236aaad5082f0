"""The measuring programs run from end to end on something tiny."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapterdb.answers import COMPOSITIONS

ROOT = Path(__file__).parents[1]


def said(*arguments: str) -> list[Any]:
    """The JSON lines a program prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_gpu_ingest_runs_on_a_cpu() -> None:
    """Two recipes, two N each, a positive ratio of each."""
    _, *lines = said("gpu/ingest.py", "--tiny", "--device", "cpu", "--rounds", "1")
    assert [(line["recipe"], line["N"]) for line in lines] == [
        ("prag", 2), ("prag", 4), ("prag-fast", 2), ("prag-fast", 4),
    ]  # fmt: skip
    assert all(line["ratio"] > 0 for line in lines)


@pytest.mark.slow
def test_bench_ingest_compares_equal_rows() -> None:
    """Ours and the Trainer's rows in float32 are the serial loop's."""
    (found,) = said("benchmarks/bench_ingest.py", "--quick", "--only", "llama, prag-fast, upper")
    variants = found["llama, prag-fast, upper-half layers"]["variants"]
    assert variants["ours float32"]["ba_error"][0] < 1e-4
    assert variants["trainer"]["ba_error"][0] < 1e-4
    assert variants["ours bfloat16"]["ba_error"][0] > 1e-4  # it was another precision


@pytest.mark.slow
def test_bench_engine_compares_equal_answers() -> None:
    """In float32 our tokens are peft's, or, where it has no such thing, those of our other way."""
    (found,) = said("benchmarks/bench_engine.py", "--quick")
    assert found["activate"]["equal"]["largest difference of a logit"] < 1e-5
    for part in ("questions", "mixed", "gated", "fold", "queue"):
        equal = found[part]["equal"]
        exact = [
            name
            for name in equal
            if "equal" in name and "bfloat16" not in name and "and static" not in name
        ]
        assert exact
        assert [name for name in exact if equal[name] < 1] == [], part
    assert found["fold"]["equal"]["weights unchanged"]


@pytest.mark.slow
def test_bench_compositions_asks_every_cell_once(tmp_path: Path) -> None:
    """Every composition and control has a figure; a second run says the same and asks nothing."""
    examples = (ROOT / "examples" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in examples[:6]]
    for number, record in enumerate(records):  # the examples name a document, not a passage
        record["passages"][0]["id"] = f"p{number}"
        record["supporting"] = [f"p{number}"]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    program = "benchmarks/bench_compositions.py", str(questions), "--work", str(tmp_path), "-k", "2"
    (found,) = said(*program)
    asked = {cell["name"] for cell in found["cells"]}
    assert asked == {"base", "rag", "shifted", *COMPOSITIONS} - {"gate"}
    assert any(cell["f1"][0] > 0 for cell in found["cells"])
    kept = (tmp_path / "cells.jsonl").read_bytes()
    (again,) = said(*program)
    assert again == found
    assert (tmp_path / "cells.jsonl").read_bytes() == kept
