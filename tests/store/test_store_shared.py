"""Shared parts: versions of named tensors that all deltas of a home lean on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from store_making import make, new

from adapterdb.config import RetentionConfig
from adapterdb.errors import Corrupt, NotFound, StorageFailed
from adapterdb.store import Store
from adapterdb.store.shared import Shared
from adapterdb.store.upkeep.backup import backup, restore
from adapterdb.store.upkeep.check import check
from adapterdb.store.upkeep.gc import collect


def test_versions_count_upwards_and_stay(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store:
        shared = Shared(store)
        assert shared.latest("ft") is None
        for i in (1, 2):
            shared.keep("ft", {"theta": torch.full((3,), i)}, fingerprint=f"f{i}", facts={"n": i})
        other = shared.keep("tfidf", {"idf": torch.ones(2)}, fingerprint="t")
    with Store.open(tmp_path / "s", read_only=True) as store:
        shared = Shared(store)
        found = shared.parts("ft")
        assert [(p.version, p.fingerprint, p.facts) for p in found] == [
            (1, "f1", {"n": 1}), (2, "f2", {"n": 2}),
        ]  # fmt: skip
        assert shared.latest("ft") == found[1]
        assert [p.name for p in shared.parts()] == ["ft@1", "ft@2", "tfidf@1"]
        assert shared.tensors(shared.find("f1"))["theta"].tolist() == [1, 1, 1]
        assert shared.tensors(other)["idf"].tolist() == [1, 1]
        with pytest.raises(NotFound, match="abc"):
            shared.find("abc")
        with pytest.raises(StorageFailed):
            shared.keep("ft", {"theta": torch.ones(3)}, fingerprint="f3")


def test_the_same_part_is_kept_once(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store:
        shared = Shared(store)
        first = shared.keep("ft", {"theta": torch.ones(3)}, fingerprint="f")
        assert shared.keep("ft", {"theta": torch.ones(3)}, fingerprint="f") == first
        assert len(shared.parts()) == 1


def test_kinds_are_not_taken_for_each_other(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store:
        shared = Shared(store)
        shared.keep("a_b", {"x": torch.ones(1)}, fingerprint="1")
        shared.keep("axb", {"x": torch.ones(1)}, fingerprint="2")
        assert [p.fingerprint for p in shared.parts("a_b")] == ["1"]


def test_collecting_checking_and_copying_know_them(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store:
        shared = Shared(store)
        part = shared.keep("ft", {"theta": torch.arange(5.0)}, fingerprint="f")
        store.commit([new(store, "a", "Some words.")])
        collect(store, RetentionConfig(), grace_h=0)
        assert shared.tensors(part)["theta"].tolist() == [0, 1, 2, 3, 4]
        backup(store, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "again")
    with Store.open(tmp_path / "again") as store:
        shared = Shared(store)
        assert shared.latest("ft") == part
        assert shared.tensors(part)["theta"].tolist() == [0, 1, 2, 3, 4]
        file = store.catalog.info()["tensors:ft@1"]
        store.weights.path(file).write_bytes(b"x")
        with pytest.raises(Corrupt):
            shared.tensors(part)
        assert any(file in str(finding) for finding in check(store, deep=True))
