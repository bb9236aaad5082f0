"""Weight files: rows come back bit for bit, or not at all."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import store_making as making
import torch

from adapterdb.config import DeltaDtype
from adapterdb.errors import Corrupt, NotFound, StorageFailed
from adapterdb.store.weights import OPEN_FILES, Weights


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
    for head in ((2**60).to_bytes(8, "little"), b"", b"\x05\0\0\0\0\0\0\0[[[[["):
        path.write_bytes(head)
        with pytest.raises(Corrupt):
            store.shape(ref.file)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_never_written(tmp_path: Path, bad: float) -> None:
    """NaN and infinity are refused and leave no file behind."""
    rows = torch.ones(3, 4)
    rows[1, 2] = bad
    with pytest.raises(Corrupt) as caught:
        weights(tmp_path).write_rows(rows)
    assert caught.value.code == "non_finite"
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("rows", [torch.ones(4), torch.ones(0, 4), torch.ones(2, 4).double()])
def test_rows_of_another_shape_or_dtype_are_refused(tmp_path: Path, rows: torch.Tensor) -> None:
    """Only (n, P) rows of the three stored dtypes are written."""
    with pytest.raises(Corrupt) as caught:
        weights(tmp_path).write_rows(rows)
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
    store = weights(tmp_path)
    written = [(torch.full((1, 16), float(i)), i) for i in range(OPEN_FILES + 20)]
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
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + OPEN_FILES
