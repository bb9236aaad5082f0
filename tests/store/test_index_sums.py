"""Checksums of the index's files: what is damaged is built anew, what is new or gone is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import store_making as making

from adapterdb.store import Store
from adapterdb.store.index_sums import SUMS_FILE, IndexSums


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Something like an index, its files summed."""
    data = tmp_path / "t.lance" / "data"
    data.mkdir(parents=True)
    for name in ("a.lance", "b.lance"):
        (data / name).write_bytes(name.encode() * 100)
    IndexSums().record(tmp_path)
    return tmp_path


def test_intact_new_and_removed_files_pass(place: Path) -> None:
    """Only a file that is listed and there is compared."""
    (place / "t.lance/data/c.lance").write_bytes(b"new")
    (place / "t.lance/data/a.lance").unlink()
    IndexSums().compare(place)
    (place / SUMS_FILE).unlink()
    IndexSums().compare(place)


@pytest.mark.parametrize("change", [b"", b"b.lance" * 99, b"c.lance" * 100])
def test_altered_file_is_named(place: Path, change: bytes) -> None:
    """Another size or other bytes are damage; what was once compared is compared when changed."""
    sums = IndexSums()
    sums.compare(place)
    (place / "t.lance/data/b.lance").write_bytes(change)
    with pytest.raises(ValueError, match=r"b\.lance"):
        sums.compare(place)


def test_files_known_are_not_summed_again(place: Path) -> None:
    """Recording keeps what was recorded, so that damage can't become the truth later."""
    (place / "t.lance/data/b.lance").write_bytes(b"x" * 700)
    IndexSums().record(place)
    with pytest.raises(ValueError, match="damaged"):
        IndexSums().compare(place)


@pytest.mark.parametrize("pattern", ["data/*.lance", "_indices/*/part*_invert.lance"])
def test_flipped_bits_in_the_index_never_change_an_answer(tmp_path: Path, pattern: str) -> None:
    """Every byte of a file wrong, yet the answer is that of SQL, and the index is built anew."""
    with making.make(tmp_path / "home") as store:
        for i in range(6):
            making.add(store, f"d{i}", f"words number {i} and more", seed=i)
        store.apply_outbox()
        clean = [hit.passage.text for hit in store.search_text("default", "number 4", 3)]
        vectors = making.found(store, "words number 2 and more", 3)
    files = list((tmp_path / "home/lance").glob(f"*/*/*.lance/{pattern}"))
    assert files
    for file in files:
        file.write_bytes(bytes(byte ^ 16 for byte in file.read_bytes()))
    with Store.open(tmp_path / "home") as store:
        assert [hit.passage.text for hit in store.search_text("default", "number 4", 3)] == clean
        assert making.found(store, "words number 2 and more", 3) == vectors
    assert not any(file.exists() for file in files), "the damaged generation is gone or set aside"
