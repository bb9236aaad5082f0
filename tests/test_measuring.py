"""The measuring programs of this issue run from end to end on something tiny."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
