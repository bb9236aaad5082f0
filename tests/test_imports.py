"""What importing the package loads, and what it exports."""

from __future__ import annotations

import subprocess
import sys

import adapterdb

HEAVY = {
    "torch", "transformers", "peft", "lancedb", "pyarrow", "sqlalchemy", "sentence_transformers",
    "sklearn", "scipy", "numpy", "triton", "rich", "sqlglot",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``code``."""
    code += "\nimport sys; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    """``import adapterdb`` loads neither torch nor any other large library."""
    assert not HEAVY & loaded_by("import adapterdb")


def test_importing_the_command_line_is_light() -> None:
    """So does the command line, and with it ``adb --help``."""
    assert not HEAVY & loaded_by("import adapterdb.cli")


def test_public_names_exist() -> None:
    """Everything in ``__all__`` is there, once, and in order."""
    assert len(set(adapterdb.__all__)) == len(adapterdb.__all__)
    assert all(hasattr(adapterdb, name) for name in adapterdb.__all__)
