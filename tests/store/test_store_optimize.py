"""Optimizing tidies the index, trusts SQL alone, and no reader notices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import store_making as making

from adapterdb.errors import StorageFailed
from adapterdb.store import Store, check
from adapterdb.store.passages import IndexRows
from adapterdb.store.upkeep.optimize import optimize

READER = """
import json, logging, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import store_making as making
from adapterdb.store import Store

warned = []
logging.getLogger("adapterdb").addHandler(logging.Handler())
logging.getLogger("adapterdb").handlers[0].emit = lambda record: warned.append(record.getMessage())
with Store.open(Path(sys.argv[1]), read_only=True) as store:
    print("ready", flush=True)
    asked = wrong = 0
    while not Path(sys.argv[1], "stop").exists():
        wrong += making.found(store, "text 3", 1) != ["text 3"]
        wrong += store.search_text("default", "text 4", 1)[0].passage.text != "text 4"
        asked += 2
print(json.dumps({"asked": asked, "wrong": wrong, "warned": warned}))
"""


def many(folder: Path, count: int = 12) -> Store:
    """A store whose index has grown by many small commits."""
    store = making.make(folder)
    for i in range(count):
        making.add(store, f"d{i}", f"text {i}", seed=i)
        store.apply_outbox()
    return store


def test_old_versions_go_and_answers_stay(tmp_path: Path) -> None:
    """Of 13 versions one or two are left, smaller, with every row; what is pending is applied."""
    with many(tmp_path) as store:
        store.delete("default", ["d5"])
        making.add(store, "late", "late words", namespace="elsewhere", seed=20)
        first, second = optimize(store)
        assert (first.namespace, first.rows, first.rebuilt) == ("default", 11, False)
        assert first.bytes_after < first.bytes_before / 5
        assert (second.namespace, second.rows, second.rebuilt) == ("elsewhere", 1, False)
        assert len(list(store.paths.index.glob("*/g000001/**/*.manifest"))) <= 2 * 2
        assert making.found(store, "text 3", 1) == ["text 3"]
        assert store.search_text("default", "text 5", 1)[0].passage.text != "text 5"
        assert check(store, deep=True) == []
        assert [done.rows for done in optimize(store, "elsewhere")] == [1]
        assert optimize(store, "nowhere") == []


@pytest.mark.parametrize("damage", ["missing", "extra", "twice"])
def test_an_index_that_differs_from_sql_is_rebuilt(tmp_path: Path, damage: str) -> None:
    """Even where the number of rows is right."""
    with many(tmp_path) as store:
        ids = store.passage_queries.everything("default").ids
        none = IndexRows([], np.zeros((0, 8), np.float32), [])
        odd = IndexRows([10**6], making.vector("odd")[None], ["odd"])
        if damage == "twice":
            table = store.index._open(store.index.place("default", 1))
            table.add(table.to_arrow().slice(0, 1))
        store.index.apply("default", 1, none if damage == "missing" else odd, ids[:1])
        (done,) = optimize(store)
        assert done.rebuilt
        assert done.rows == len(ids)
        assert sorted(store.index.ids("default", 2)) == sorted(ids)
        assert optimize(store)[0].rebuilt is False


def test_an_index_that_can_not_be_read_is_rebuilt(tmp_path: Path) -> None:
    """A table whose files are empty costs nothing but time."""
    with many(tmp_path) as store:
        for path in store.paths.index.rglob("*.manifest"):
            path.write_bytes(b"")
        (done,) = optimize(store)
        assert (done.rebuilt, done.rows) == (True, 12)
        assert making.found(store, "text 3", 1) == ["text 3"]


def test_a_reader_in_another_process_notices_nothing(tmp_path: Path) -> None:
    """It searches on, from the index, while the table is optimized and replaced under it."""
    with many(tmp_path) as store:
        words = [sys.executable, "-c", READER, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
            for i in range(6):
                making.add(store, f"more{i}", f"more words {i}", seed=i)
                if i == 3:
                    store.applier.rebuild("default", 30)
                optimize(store)
            (tmp_path / "stop").touch()
            said = json.loads(reader.stdout.read())
        assert reader.returncode == 0
    assert said["asked"] > 0
    assert (said["wrong"], said["warned"]) == (0, [])


def test_a_store_open_for_reading_is_left_alone(tmp_path: Path) -> None:
    """Nothing is tidied where nothing may be written."""
    many(tmp_path, 2).close()
    with Store.open(tmp_path, read_only=True) as store, pytest.raises(StorageFailed):
        optimize(store)
