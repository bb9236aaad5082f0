"""The C kernel: when it runs, when it refuses, and what it rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_making import make, numbers

from adapterdb.errors import InvalidInput
from adapterdb.kernels import add_lora, native
from adapterdb.kernels.products import Products

needs_c = pytest.mark.skipif(native.library() is None, reason="the C kernel is not built")
ROOT = Path(__file__).parents[2]


@needs_c
def test_what_it_cannot_do_is_refused_with_a_reason() -> None:
    """An explicit choice raises and says why; "auto" computes the same things without it."""
    problem = make("decode")
    wanting = replace(problem, a=problem.a.clone().requires_grad_())
    wide = make("decode", dtype=torch.float64)
    odd = replace(problem, a=problem.a.mT.contiguous().mT)
    for cannot, word in ((wanting, "gradient"), (wide, "float64"), (odd, "contiguous")):
        with pytest.raises(InvalidInput, match=word):
            cannot.solve("native")
        truth = cannot.truth()
        torch.testing.assert_close(cannot.solve("auto").double(), truth, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(wanting.solve("native"), problem.solve("reference"))


@needs_c
def test_a_slot_beyond_the_bank_is_refused() -> None:
    """C would read whatever lies behind the bank."""
    problem = make("decode")
    with pytest.raises(InvalidInput, match="slot 9 "):
        replace(problem, slots=torch.full((4, 3), 9)).solve("native")


@needs_c
def test_bfloat16_rounds_to_nearest_even() -> None:
    """y + 0 is y for every bfloat16, infinities and NaN too, and sums round as torch rounds."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    y = bits.view(torch.bfloat16).view(1, 1, -1)
    nothing = torch.zeros(1, 1, 8, dtype=torch.bfloat16)
    b = torch.zeros(1, 1, y.shape[-1], dtype=torch.bfloat16)
    kept = add_lora(y, nothing, nothing, b, impl="native")
    torch.testing.assert_close(kept, y, atol=0, rtol=0, equal_nan=True)
    h = torch.full((1, 1, 1), 1 / 256, dtype=torch.bfloat16)
    for other in (y, y.flip(-1)):
        got = add_lora(y, h, torch.ones_like(h), other, impl="native")
        expected = (y.float() + other.float() / 256).bfloat16()
        torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)


def test_auto_takes_it_for_a_few_tokens_on_a_cpu_only() -> None:
    """Decoding pays; a prompt, a bank row shared by many tokens and other dtypes do not."""
    a, b = numbers(4, 6, 32), numbers(4, 6, 48)

    def products(batch: int, tokens: int, dtype: torch.dtype, entries: int = 4) -> Products:
        x, y = torch.zeros(batch, tokens, 32, dtype=dtype), torch.zeros(batch, tokens, 48)
        return Products(y.to(dtype), x, a[:entries], b[:entries])

    assert native.pays(products(4, 1, torch.float32))
    assert native.pays(products(4, 1, torch.bfloat16))
    assert not native.pays(products(4, 32, torch.bfloat16))
    assert not native.pays(products(64, 1, torch.float32, entries=1))
    assert not native.pays(products(4, 1, torch.float64))


def test_without_the_file_there_is_no_kernel(tmp_path: Path) -> None:
    """An installation without a compiler, or with a file of another machine, goes without it."""
    assert native.library(tmp_path) is None
    (tmp_path / f"_native{native.EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    native.library.cache_clear()
    assert native.library(tmp_path) is None


@pytest.mark.slow
def test_installation_succeeds_without_a_compiler(tmp_path: Path) -> None:
    """A compiler that fails leaves the kernel out and nothing else."""
    pytest.importorskip("setuptools")
    for compiler, built in (("false", 0), (os.environ.get("CC", "cc"), 1)):
        out = tmp_path / compiler.replace("/", "_")
        command = [sys.executable, "setup.py", "-q", "build_ext", "--force"]
        command += ["--build-lib", str(out), "--build-temp", str(out / "temp")]
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"CC": compiler}, check=True, capture_output=True
        )
        assert len(list(out.glob("adapterdb/kernels/_native*"))) == built
