"""The decode loop against transformers' own generate, and its independence of the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb.answers import Generation
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import StopRules, decode

PROMPTS = [[1, 40, 41, 42, 43, 44], [1, 90], [1, 60, 61, 62]]


def run(
    base: BaseModel, prompts: list[list[int]], generation: Generation, stops: StopRules, n: int
) -> list[list[int]]:
    """The answers' tokens of one batch."""
    said: list[list[int]] = [[] for _ in prompts]
    for step in decode(base.model, prompts, generation, stops, n):
        for row, token in enumerate(step):
            said[row] += [] if token is None else [token]
    return said


def never(base: BaseModel) -> StopRules:
    """Stop rules that never apply."""
    return StopRules(frozenset(), (), base.encoder.decode)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_greedy_batch_equals_generate_one_by_one(
    tiny_folder: Callable[[str], Path], kind: str
) -> None:
    """A batch of different lengths says token for token what generate says for each prompt."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    ours = run(base, PROMPTS, Generation(), never(base), 12)
    for prompt, said in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([prompt])
        whole = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert said == whole[0, len(prompt) :].tolist()


def test_sampling_depends_on_its_seed_alone(tiny_folder: Callable[[str], Path]) -> None:
    """The same seed gives the same answer alone and in company; another seed another answer."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    hot = Generation(temperature=1.0, top_p=0.9, seed=7)
    batch = run(base, PROMPTS, hot, never(base), 12)
    assert batch[1] == run(base, PROMPTS[1:2], hot, never(base), 12)[0]
    other = Generation(temperature=1.0, top_p=0.9, seed=8)
    assert batch != run(base, PROMPTS, other, never(base), 12)


def test_tiny_top_p_is_greedy(tiny_folder: Callable[[str], Path]) -> None:
    """With a nucleus of one token sampling says what greedy decoding says."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    narrow = Generation(temperature=1.0, top_p=1e-6)
    assert run(base, PROMPTS, narrow, never(base), 8) == run(
        base, PROMPTS, Generation(), never(base), 8
    )


def test_each_answer_stops_by_itself(tiny_folder: Callable[[str], Path]) -> None:
    """A stop token ends its own answer, is not part of it, and leaves the others going."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    free = run(base, PROMPTS, Generation(), never(base), 12)
    stop = free[0][4]
    stops = StopRules(frozenset([stop]), (), base.encoder.decode)
    stopped = run(base, PROMPTS, Generation(), stops, 12)
    for before, after in zip(free, stopped, strict=True):
        cut = before.index(stop) if stop in before else len(before)
        assert after == before[:cut]


def test_stop_text_is_cut_from_the_answer() -> None:
    """An answer ends before its first stop text, but not at one that leads it."""
    stops = StopRules(frozenset(), ("\n", "END"), lambda ids: bytes(ids).decode())
    assert stops.text(list(b"\n Paris\nLondon")) == "Paris"
    assert stops.text(list(b"Paris END\n")) == "Paris"
    assert stops.text(list(b"Paris")) == "Paris"
    assert stops.cut(list(b"\n Paris")) is None
