"""Repair: mends what can be mended, says what can't, and never makes anything worse."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import defects
import pytest
import store_making as making
import torch
from defects import DEFECTS
from test_store_commit import FORKS

from adapterdb.errors import Corrupt
from adapterdb.store import Store, check, repair
from adapterdb.store.upkeep.repair import STEPS


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_mended_or_named(sound_home: Path, name: str, catalog_kind: str) -> None:
    """What can be mended is; a second repair has nothing to do; other documents stay the same."""
    defect = DEFECTS[name]
    if defect.sqlite and catalog_kind != "sqlite":
        pytest.skip("it is about SQLite's files")
    with Store.open(sound_home) as store:
        before = defects.answers(store)
    defect.plant(sound_home)
    with Store.open(sound_home) as store:
        done = repair(store)
        mended = defect.codes - defect.left - {"reserve"}  # opening sets that aside
        assert not mended or {act.code for act in done} & mended
        found = check(store, deep=True)
        assert {finding.code for finding in found} == defect.left
        assert not any(finding.repairable for finding in found)
        assert repair(store) == []
        assert defects.answers(store) == before
        if "catalog" not in defect.codes:
            assert store.is_current("default", "bad", "key") is not defect.again


def test_nothing_is_deleted(sound_home: Path) -> None:
    """What is taken away lies in quarantine, byte for byte."""
    DEFECTS["flipped_row"].plant(sound_home)
    DEFECTS["orphan_file"].plant(sound_home)
    DEFECTS["index_set_aside"].plant(sound_home)
    with Store.open(sound_home) as store:
        named = store.catalog.weight_files()
        before = {path.name: path.read_bytes() for path in sound_home.glob("weights/*/*")}
        repair(store)
        kept = {path.name: path.read_bytes() for path in sound_home.glob("weights/*/*")}
        kept |= {p.name: p.read_bytes() for p in store.paths.quarantine.glob("*/*") if p.is_file()}
        assert kept.items() >= before.items()
        assert {path.name for path in store.paths.quarantine.glob("*")} == {
            "sha_mismatch",
            "orphan_file",
            "index_set_aside",
        }
        assert named


def test_rows_of_a_damaged_file_that_can_be_read_are_saved(sound_home: Path) -> None:
    """One row of two is lost: only its delta is marked, the other has its bytes in a new file."""
    refs = defects.refs_of(sound_home, "bad")
    DEFECTS["flipped_row"].plant(sound_home)
    with Store.open(sound_home) as store:
        saved = store.read_row(refs[1])
        repair(store)
        first, second = store.passages(store.document("default", "bad").id)
        with pytest.raises(Corrupt):
            store.read_row(first.row)
        assert second.row.file != refs[1].file
        assert torch.equal(store.read_row(second.row), saved)


def test_a_file_that_is_put_back_is_used_again(sound_home: Path) -> None:
    """A lost file marks its document; put back, the mark goes and nothing is made anew."""
    ref = defects.refs_of(sound_home, "bad")[0]
    with Store.open(sound_home) as store:
        path = store.weights.path(ref.file)
        shutil.move(path, sound_home.parent / "elsewhere")
        repair(store)
        assert not store.is_current("default", "bad", "key")
        shutil.move(sound_home.parent / "elsewhere", path)
        (found,) = check(store, deep=True)
        assert (found.code, found.repairable) == ("damaged", True)
        assert [act.code for act in repair(store)] == ["damaged"]
        assert store.is_current("default", "bad", "key")
        assert check(store, deep=True) == []


def test_a_file_that_is_made_again_ends_the_damage(sound_home: Path) -> None:
    """A new version of a damaged document leaves no error."""
    DEFECTS["lost_file"].plant(sound_home)
    with Store.open(sound_home) as store:
        repair(store)
        making.add(store, "bad", "a kettle of copper", "hangs over the grass", seed=5)
        store.apply_outbox()
        assert store.is_current("default", "bad", "key")
        assert [finding.severity for finding in check(store, deep=True)] == ["warning"]


def test_a_passage_that_is_lost_does_not_rebuild_the_index_again_and_again(
    sound_home: Path,
) -> None:
    """An index without the passage that is damaged in the catalog is taken for whole."""
    DEFECTS["row_crc_vector"].plant(sound_home)
    with Store.open(sound_home) as store:
        store.applier.rebuild("default", 0)
        generation = store.outbox.indexed()["default"]
    with Store.open(sound_home) as store:
        assert making.found(store, "opened in spring")[0] == "opened in spring"
        store.applier.apply("default", 0)
        assert not store.applier.optimize("default", 0).rebuilt
        assert store.outbox.indexed()["default"] == generation


PLANTED = ("flipped_row", "orphan_file", "row_crc_passage", "index_extra", "outbox_stuck")
KILLS = [*((step, 1) for step in ("rows_moved", "durable", "index_built", "index_pointed")),
         *((step, n) for step in STEPS for n in (1, 2, 3))]  # fmt: skip


def _die_at(home: str, step: str, count: int) -> None:
    steps: list[str] = []

    def die(now: str) -> None:
        steps.append(now)
        if steps.count(step) == count:
            os._exit(9)

    with Store.open(Path(home), on_step=die) as store:
        repair(store)


@pytest.mark.parametrize(("step", "count"), KILLS)
def test_a_repair_that_was_killed_is_finished_by_the_next(
    sound_home: Path, step: str, count: int
) -> None:
    """Killed at any step, the next repair ends where an undisturbed one would have."""
    for name in PLANTED:
        DEFECTS[name].plant(sound_home)
    child = FORKS.Process(target=_die_at, args=(str(sound_home), step, count))
    child.start()
    child.join(120)
    assert child.exitcode == 9
    with Store.open(sound_home) as store:
        repair(store)
        found = check(store, deep=True)
        assert [finding.code for finding in found] == ["damaged"]
        assert repair(store) == []
        assert making.found(store, "a kettle of copper")[0] == "a kettle of copper"
        assert any(store.paths.quarantine.glob("sha_mismatch/*"))
