"""Weight files: rows come back bit for bit, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import store_making as making
import torch

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt, InvalidInput, NotFound, StorageFailed
from adapterdb.store.weights import Weights


def weights(folder: Path) -> Weights:
    """Weight files in ``folder``."""
    return Weights(folder, {"layout": "l"}, lambda step: None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: DeltaDtype) -> None:
    """Every row of a batch is read back equal, in its dtype, as a tensor of its own."""
    rows = torch.randn(5, 33).to(getattr(torch, dtype))
    refs = weights(tmp_path).write_rows(rows)
    again = weights(tmp_path)
    for row, ref in zip(rows, refs, strict=True):
        got = again.read_row(ref)
        assert torch.equal(got, row)
        assert got.dtype == row.dtype
        assert ref.norm == pytest.approx(float(row.float().norm()), rel=1e-5)
        got.zero_()
        assert torch.equal(again.read_row(ref), row)
    shape = again.shape(refs[0].file)
    assert (shape.rows, shape.width, dict(shape.fields)) == (5, 33, {"layout": "l"})
    assert again.sha256(refs[0].file) == refs[0].file


def test_a_file_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    """Other tools can read the rows."""
    from safetensors.torch import load_file

    rows = torch.randn(3, 8)
    store = weights(tmp_path)
    (name,) = {ref.file for ref in store.write_rows(rows)}
    assert torch.equal(load_file(store.path(name))["rows"], rows)


def test_any_flipped_bit_is_detected(tmp_path: Path) -> None:
    """A row with one flipped bit is never returned; its neighbours still are."""
    store = weights(tmp_path)
    refs = store.write_rows(making.rows(4))
    path = store.path(refs[0].file)
    data = path.read_bytes()
    for at in range(refs[1].offset, refs[1].offset + refs[1].size_bytes, 7):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        fresh = weights(tmp_path)
        with pytest.raises(Corrupt) as caught:
            fresh.read_row(refs[1])
        assert caught.value.code == "sha_mismatch"
        fresh.read_row(refs[0])
        fresh.read_row(refs[2])


def test_lost_and_truncated_files_have_codes(tmp_path: Path) -> None:
    """A file cut short or gone raises Corrupt with its own code."""
    store = weights(tmp_path)
    refs = store.write_rows(making.rows(2))
    path = store.path(refs[0].file)
    path.write_bytes(path.read_bytes()[:-1])
    weights(tmp_path).read_row(refs[0])
    for action in (lambda s: s.read_row(refs[1]), lambda s: s.shape(refs[0].file)):
        with pytest.raises(Corrupt) as caught:
            action(weights(tmp_path))
        assert caught.value.code == "bad_size"
    path.unlink()
    for action in (lambda s: s.read_row(refs[1]), lambda s: s.shape(refs[0].file)):
        with pytest.raises(Corrupt) as caught:
            action(weights(tmp_path))
        assert caught.value.code == "lost_file"


def test_a_bloated_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A header said to be huge, or no header at all, is Corrupt."""
    store = weights(tmp_path)
    (ref,) = store.write_rows(making.rows(1))
    path = store.path(ref.file)
    for head in (
        (2**60).to_bytes(8, "little"),
        (2**19).to_bytes(8, "little") + b" " * 2**18,
        b"",
        b"\x05\0\0\0\0\0\0\0[[[[[",
    ):
        path.write_bytes(head)
        with pytest.raises(Corrupt):
            store.shape(ref.file)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": {"dtype": "BF16", "shape": [2, 65], "data_offsets": [0, 256]}},
        {"rows": {"dtype": "BF16", "shape": [-2, -64], "data_offsets": [0, 256]}},
        {"rows": {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 256]}},
        {"rows": {"dtype": "I64", "shape": [2, 16], "data_offsets": [0, 256]}},
        {"rows": {"dtype": "BF16", "shape": [1e999, 64], "data_offsets": [0, 256]}},
        {"rows": {"dtype": "U8", "shape": [2, 1], "data_offsets": [0, 2]}},
        {"more": {"dtype": "BF16", "shape": [0], "data_offsets": [256, 256]}},
        {"__metadata__": {}},
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Shape, dtype, offsets, tensors and fields must be those of rows."""
    store = weights(tmp_path)
    path = store.path(store.write_rows(making.rows(2))[0].file)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]) | change
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(Corrupt) as caught:
        store.shape(path.stem)
    assert caught.value.code == "bad_size"


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_rows_that_are_not_finite_are_never_written(
    tmp_path: Path, bad: float, dtype: DeltaDtype
) -> None:
    """NaN, infinity and a norm that overflows are refused and leave no file behind."""
    rows = torch.ones(3, 4)
    rows[1, 1:] = bad
    with pytest.raises(Corrupt) as caught:
        weights(tmp_path).write_rows(rows, dtype)
    assert caught.value.code == "non_finite"
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_row_of_zeros_is_kept_and_shows(tmp_path: Path, dtype: DeltaDtype) -> None:
    """A dead row is stored with norm 0 and read as zeros; its neighbour is not."""
    rows = torch.stack([torch.zeros(40), torch.ones(40)]).bfloat16()
    dead, alive = weights(tmp_path).write_rows(rows, dtype)
    assert dead.norm == 0 < alive.norm
    assert not weights(tmp_path).read_row(dead).any()
    assert weights(tmp_path).read_row(alive).all()


@pytest.mark.parametrize("source", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_int8_rows_are_written_from_any_float_and_read_as_float32(
    tmp_path: Path, source: torch.dtype
) -> None:
    """Rows of any float dtype go in; what comes out is near, and the same in a slot."""
    rows = torch.randn(3, 70).to(source)
    refs = weights(tmp_path).write_rows(rows, "int8")
    again = weights(tmp_path)
    slot = torch.empty(70)
    for row, ref in zip(rows, refs, strict=True):
        got = again.read_row(ref)
        assert (got.dtype, ref.dtype, ref.size_bytes) == (torch.float32, "int8", 98)
        assert float((got - row).norm() / row.norm()) < 2e-3
        assert torch.equal(again.read_row(ref, slot), got)
    shape = again.shape(refs[0].file)
    assert (shape.rows, shape.width) == (3, 70)


def test_flipped_bits_and_scales_that_are_not_finite_in_int8_rows_are_refused(
    tmp_path: Path,
) -> None:
    """Stored bytes are checked before they are believed, and so is what they say."""
    store = weights(tmp_path)
    (ref,) = store.write_rows(torch.randn(1, 32), "int8")
    path = store.path(ref.file)
    data = bytearray(path.read_bytes())
    data[ref.offset : ref.offset + 2] = b"\x80\x7f"  # infinity as bfloat16
    path.write_bytes(data)
    sha256 = hashlib.sha256(data[ref.offset : ref.offset + ref.size_bytes]).hexdigest()
    for found, code in ((ref, "sha_mismatch"), (replace(ref, sha256=sha256), "non_finite")):
        with pytest.raises(Corrupt) as caught:
            store.read_row(found)
        assert caught.value.code == code


@pytest.mark.parametrize("rows", [torch.ones(4), torch.ones(0, 4), torch.ones(2, 4).double()])
def test_rows_of_another_shape_or_dtype_are_refused(tmp_path: Path, rows: torch.Tensor) -> None:
    """Only (n, P) rows of float dtypes that can be stored are written."""
    with pytest.raises(Corrupt) as caught:
        weights(tmp_path).write_rows(rows)
    assert caught.value.code == "bad_size"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rows_of_another_dtype_than_asked_for_are_refused(
    tmp_path: Path, dtype: DeltaDtype
) -> None:
    """Floats are never rounded silently, and whole numbers are no delta."""
    rows = torch.ones(2, 4, dtype=torch.float32 if dtype == "bfloat16" else torch.int32)
    with pytest.raises(Corrupt) as caught:
        weights(tmp_path).write_rows(rows, dtype)
    assert caught.value.code == "bad_size"


def test_a_store_refuses_rows_of_another_layout(tmp_path: Path) -> None:
    """A store takes rows of its own P and dtype only."""
    with making.make(tmp_path) as store:
        for rows in (torch.ones(2, making.P), torch.ones(2, 3).bfloat16()):
            with pytest.raises(Corrupt):
                store.write_rows(rows)


def test_a_row_ref_out_of_range_is_refused(tmp_path: Path) -> None:
    """A row said to lie beyond the file, or elsewhere in it, is not returned."""
    store = weights(tmp_path)
    refs = store.write_rows(making.rows(2))
    with pytest.raises(Corrupt):
        store.read_row(replace(refs[1], offset=refs[1].offset + 2))
    with pytest.raises(Corrupt):
        store.read_row(replace(refs[1], offset=refs[1].offset - 2))
    for odd in (
        {"offset": -2},
        {"offset": 2**62},
        {"size_bytes": 0},
        {"size_bytes": 7},
        {"size_bytes": -4},
        {"size_bytes": 13, "dtype": "int8"},
    ):
        with pytest.raises(Corrupt) as caught:
            store.read_row(replace(refs[1], **odd))
        assert caught.value.code == "bad_size"
    with pytest.raises(Corrupt) as caught:  # the catalog says another P than the slots have
        store.read_row(refs[1], torch.empty(making.P + 1, dtype=torch.bfloat16))
    assert caught.value.code == "bad_size"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EROFS, "read_only"), (errno.EIO, "io")],
)
def test_a_failing_disk_is_a_storage_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    """A write or fsync that fails raises StorageFailed; no file appears and none is left over."""

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    store = weights(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageFailed) as caught:
            store.write_rows(making.rows(1))
    assert caught.value.code == code
    assert store.names() == set()
    assert store.staged() == []
    assert len(store.write_rows(making.rows(1))) == 1


def test_a_failed_fsync_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an EIO from fsync the kernel may have dropped the data: that file is given up."""
    tried: list[int] = []

    def fail(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailed) as caught:
        weights(tmp_path).write_rows(making.rows(1))
    assert (caught.value.code, len(tried)) == ("io", 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_removed_file_is_gone_and_closed(tmp_path: Path) -> None:
    """Its name is gone, its descriptor closed, its rows lost; removing it again is safe."""
    store = weights(tmp_path)
    gone, kept = store.write_rows(making.rows(1)), store.write_rows(making.rows(1, seed=1))
    for ref in (*gone, *kept):
        store.read_row(ref)
    size = store.path(gone[0].file).stat().st_size
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    assert store.remove(gone[0].file) == size
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files - 1
    assert store.names() == {kept[0].file}
    with pytest.raises(Corrupt) as caught:
        store.read_row(gone[0])
    assert caught.value.code == "lost_file"
    assert store.remove(gone[0].file) == 0
    store.read_row(kept[0])


def test_a_removal_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced after the name is gone; if that fails, the caller is told."""
    store = weights(tmp_path)
    (ref,) = store.write_rows(making.rows(1))
    path, synced = store.path(ref.file), []

    def note(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", note)
    with pytest.raises(StorageFailed):
        store.remove(ref.file)
    assert synced == [(str(path.parent), False)]


def test_what_another_process_removed_is_lost(tmp_path: Path) -> None:
    """An open file that lost its name is not read any more."""
    store = weights(tmp_path)
    (ref,) = store.write_rows(making.rows(1))
    store.read_row(ref)
    store.path(ref.file).unlink()
    with pytest.raises(Corrupt) as caught:
        store.read_row(ref)
    assert caught.value.code == "lost_file"


def test_a_file_that_was_replaced_is_checked_again(tmp_path: Path) -> None:
    """Another file under a known name is not trusted because the old one was."""
    store = weights(tmp_path)
    (ref,) = store.write_rows(making.rows(1))
    store.read_row(ref)
    path = store.path(ref.file)
    data = bytearray(path.read_bytes())
    other = path.with_suffix(".other")
    other.write_bytes(data)
    other.rename(path)
    store.read_row(ref)
    data[-1] ^= 1
    other.write_bytes(data)
    other.rename(path)
    with pytest.raises(Corrupt) as caught:
        store.read_row(ref)
    assert caught.value.code == "sha_mismatch"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rows_are_copied_bit_for_bit(tmp_path: Path, dtype: DeltaDtype) -> None:
    """Rows of several files become one file with the same bytes, sha256 and norms."""
    store = weights(tmp_path)
    first = store.write_rows(making.rows(3), dtype)
    second = store.write_rows(making.rows(2, seed=1), dtype)
    chosen = [first[2], second[0], first[0]]
    copies = store.copy_rows(chosen)
    assert len({ref.file for ref in copies}) == 1
    assert copies[0].file not in {first[0].file, second[0].file}
    read = {ref: store.read_row(ref) for ref in chosen}
    store.remove(first[0].file)
    store.remove(second[0].file)
    for old, new in zip(chosen, copies, strict=True):
        assert replace(new, file=old.file, offset=old.offset) == old
        assert torch.equal(weights(tmp_path).read_row(new), read[old])
    shape = store.shape(copies[0].file)
    assert (shape.rows, shape.width, dict(shape.fields)) == (3, making.P, {"layout": "l"})


def test_all_rows_of_a_file_in_order_are_that_file(tmp_path: Path) -> None:
    """A file follows from its rows, so copying all of them names the same one."""
    store = weights(tmp_path)
    refs = store.write_rows(making.rows(3))
    assert store.copy_rows(refs) == refs


def test_only_intact_rows_of_one_kind_are_copied(tmp_path: Path) -> None:
    """A damaged row, or rows of two dtypes, make no file; even a row checked before counts."""
    store = weights(tmp_path)
    refs = store.write_rows(making.rows(2))
    others = store.write_rows(making.rows(1), "int8")
    with pytest.raises(InvalidInput):
        store.copy_rows([*refs, *others])
    store.read_row(refs[1])
    path = store.path(refs[0].file)
    data = bytearray(path.read_bytes())
    data[refs[1].offset] ^= 1
    path.write_bytes(data)
    before = store.names()
    with pytest.raises(Corrupt) as caught:
        store.copy_rows([refs[1]])
    assert caught.value.code == "sha_mismatch"
    assert store.names() == before


def test_named_tensors_are_kept(tmp_path: Path) -> None:
    """A shared start comes back equal; a flipped bit in it is detected; unknown names are named."""
    start = {"theta": torch.randn(making.P), "alpha": torch.rand(making.P)}
    with making.make(tmp_path) as store:
        sha = store.write_tensors("meta_init", start)
        assert store.write_tensors("meta_init", start) == sha
        got = store.read_tensors("meta_init")
        assert all(torch.equal(got[name], start[name]) for name in start)
        with pytest.raises(NotFound):
            store.read_tensors("other")
        path = store.weights.path(sha)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt) as caught:
            store.read_tensors("meta_init")
        assert caught.value.code == "sha_mismatch"


def test_many_threads_read_more_files_than_stay_open(tmp_path: Path) -> None:
    """Descriptors are bounded, and closing one never disturbs a thread that reads from it."""
    most = 16
    store = Weights(tmp_path, {}, lambda step: None, open_files=most)
    written = [(torch.full((1, 16), float(i)), i) for i in range(most + 20)]
    refs = [store.write_rows(rows)[0] for rows, _ in written]
    wrong: list[Any] = []

    def read(start: int) -> None:
        for i in range(2 * len(refs)):
            at = (start + i * 7) % len(refs)
            try:
                if float(store.read_row(refs[at])[0]) != at:
                    wrong.append(at)
            except (Corrupt, OSError) as error:
                wrong.append(error)

    before = len(list(Path("/proc/self/fd").iterdir()))
    threads = [threading.Thread(target=read, args=(i * 11,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + most
