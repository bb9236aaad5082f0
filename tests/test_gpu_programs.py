"""The programs of gpu/ run where there is no GPU, as far as they can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton")
GPU = Path(__file__).parents[1] / "gpu"


def run(program: str, *arguments: str) -> str:
    """What a program prints, if it ends well."""
    done = subprocess.run(
        [sys.executable, GPU / program, *arguments],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "OUT")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernels_can_be_tried_without_a_gpu(tmp_path: Path) -> None:
    """Every part of gpu/kernels.py runs at a tiny size; its last line is what it keeps."""
    found = json.loads(run("kernels.py", "--smoke", "--out", str(tmp_path)).splitlines()[-1])
    assert found == json.loads((tmp_path / "kernels.json").read_text())
    assert found["smoke"]
    assert found["checks"]["compared"] > 0
    assert found["checks"]["failed"] == []
    assert {line["site"] for line in found["sites"]} == {"up", "down"}
    assert {tile["k"] for tile in found["tiles"] if tile["phase"] != "expand"} == {40, 64}


def test_the_engine_can_be_tried_without_a_gpu(tmp_path: Path) -> None:
    """gpu/engine.py runs on a tiny model, and its tokens are peft's."""
    found = json.loads(run("engine.py", "--smoke", "--out", str(tmp_path)).splitlines()[-1])
    assert found == json.loads((tmp_path / "engine.json").read_text())
    assert [line["tokens_as_peft"] for line in found["steps"]] == [1.0]


@pytest.mark.slow
def test_kernels_compile_for_an_h200() -> None:
    """What the interpreter runs is also Triton that its compiler takes."""
    assert run("compile.py", "--few").count("shared") > 20
