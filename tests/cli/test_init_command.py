"""``adb init``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_making import Run

TinyFolder = Callable[[str], Path]


def test_options_reach_the_config(run: Run, tmp_path: Path, tiny_folder: TinyFolder) -> None:
    """What was chosen is what the home remembers."""
    done = run(
        "--json", "init", tmp_path / "h", "--base", tiny_folder("llama"), "--recipe", "prag",
        "--rank", 3, "--alpha", 6, "--targets", "q_proj, v_proj", "--layers", "upper-1",
        "--delta-dtype", "float32", "--chunk-tokens", 64, "--overlap", 8,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["path"] == str(tmp_path / "h")
    assert made["config"]["lora"] == {
        "rank": 3, "alpha": 6.0, "targets": ["q_proj", "v_proj"], "layers": "upper-1",
    }  # fmt: skip
    assert made["config"]["chunk"] == {"tokens": 64, "overlap": 8}
    assert (made["config"]["recipe"], made["config"]["delta_dtype"]) == ("prag", "float32")


def test_a_second_init_is_refused(run: Run, home: Path) -> None:
    """A home is never overwritten."""
    done = run("--json", "init", home)
    assert done.exit_code == 1
    assert json.loads(done.stderr)["error"]["code"] == "exists"


def test_unknown_model_and_bad_numbers_leave_nothing_behind(run: Run, tmp_path: Path) -> None:
    """The error has a code, and the folder is not made."""
    for words, code in (
        (["--base", str(tmp_path / "no-model")], "model_not_found"),
        (["--rank", "0"], "invalid_input"),
        (["--chunk-tokens", "1"], "invalid_input"),
        (["--recipe", "magic"], "invalid_input"),
    ):
        done = run("--json", "init", tmp_path / "h", *words)
        assert done.exit_code == 1, words
        assert json.loads(done.stderr)["error"]["code"] == code
        assert not (tmp_path / "h").exists()


def test_two_places_are_misuse(run: Run, tmp_path: Path) -> None:
    """DIR and --database can't both name the home."""
    assert run("init", tmp_path / "a", "-d", tmp_path / "b").exit_code == 2


def test_a_catalog_elsewhere_is_remembered(
    run: Run, tmp_path: Path, tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given to init once, by option or environment, later commands find it without being told."""
    for name in ("option", "environment"):
        home, file = tmp_path / name, tmp_path / f"{name}.db"
        url = f"sqlite:///{file}"
        given = ["--catalog", url] if name == "option" else []
        if not given:
            monkeypatch.setenv("ADB_CATALOG", url)
        done = run("init", home, "--base", tiny_folder("llama"), *given)
        assert done.exit_code == 0, done.output
        monkeypatch.delenv("ADB_CATALOG", raising=False)
        assert file.exists()
        assert not (home / "meta.db").exists()
        assert run("-d", home, "list").exit_code == 0


def test_a_catalog_that_is_not_there_leaves_no_home(
    run: Run, tmp_path: Path, tiny_folder: TinyFolder
) -> None:
    """The error has a code and no password, and init may be tried again."""
    url = "postgresql://user:canary@127.0.0.1:1/db"
    words = ["init", tmp_path / "h", "--base", tiny_folder("llama")]
    done = run("--json", *words, "--catalog", url)
    assert done.exit_code != 0
    assert json.loads(done.stderr)["error"]["code"] == "catalog_unreachable"
    assert "canary" not in done.output + done.stderr
    assert run(*words).exit_code == 0
