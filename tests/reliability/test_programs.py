"""The programs of ``benchmarks/reliability`` that need strace or root, with the smallest counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, and trace as is done here")
@pytest.mark.parametrize(
    ("program", "rounds"),
    [("durability_order", 3), ("power_loss", 1), ("disk_full", 1), ("syscalls", 4)],
)
def test_a_program_finds_nothing(program: str, rounds: int) -> None:
    """No acknowledged document is lost, at a fixed seed."""
    words = ["-m", f"benchmarks.reliability.{program}", "--rounds", str(rounds), "--seed", "5"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["violations"] == 0
