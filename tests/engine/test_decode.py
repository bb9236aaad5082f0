"""The decode loop against transformers' own generate, and its independence of the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdb.answers import Generation
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import decode
from adapterdb.engine.steps import Fixed
from adapterdb.engine.stops import StopRules

PROMPTS = [[1, 40, 41, 42, 43, 44], [1, 90], [1, 60, 61, 62]]


def run(
    base: BaseModel,
    prompts: list[list[int]],
    generation: Generation,
    stops: StopRules,
    n: int | list[int],
    **how: Any,
) -> list[list[int]]:
    """The answers' tokens of one batch."""
    said: list[list[int]] = [[] for _ in prompts]
    for step in decode(base.model, prompts, generation, stops, n, **how):
        for row, one in enumerate(step):
            said[row] += [] if one is None else [one.token]
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


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_fixed_and_shrinking_batches_say_the_same(
    tiny_folder: Callable[[str], Path], kind: str
) -> None:
    """A cache of fixed size, and a batch that drops ended rows, change no token."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    lengths = [3, 12, 7]
    want = run(base, PROMPTS, Generation(), never(base), lengths)
    assert [len(said) for said in want] == lengths
    fixed = run(base, PROMPTS, Generation(), never(base), lengths, steps=Fixed(base.model, 12))
    assert fixed == want
    kept: list[list[int]] = []
    shrunk = run(
        base, PROMPTS, Generation(), never(base), lengths,
        on_keep=lambda rows: kept.append(rows.tolist()),
    )  # fmt: skip
    assert shrunk == want
    assert kept == [[1]]


def test_log_probabilities_are_those_of_the_model(tiny_folder: Callable[[str], Path]) -> None:
    """Each token comes with the log-probability a forward over the whole answer gives it."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    for generation in (Generation(), Generation(temperature=2.0, seed=1)):
        steps = list(decode(base.model, PROMPTS, generation, never(base), 5))
        for row, prompt in enumerate(PROMPTS):
            said = [step[row] for step in steps]
            tokens = [one.token for one in said if one is not None]
            with torch.inference_mode():
                logits = base.model(torch.tensor([prompt + tokens])).logits[0]
            want = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(
                -1, torch.tensor(tokens)[:, None]
            )
            found = torch.tensor([one.logprob for one in said if one is not None])
            torch.testing.assert_close(found, want[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("fixed", [False, True])
def test_an_ended_row_is_not_carried_past_the_last_position(
    tiny_folder: Callable[[str], Path], kind: str, fixed: bool
) -> None:
    """A prompt of all positions but one ends at once, and the others of its batch go on."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    prompts, most = [[1] * 511, *PROMPTS], [1, 6, 6, 6]
    steps = Fixed(base.model, 6) if fixed else None
    said = run(base, prompts, Generation(), never(base), most, steps=steps)
    assert said[1:] == run(base, PROMPTS, Generation(), never(base), 6)


def test_a_tiny_temperature_is_greedy(tiny_folder: Callable[[str], Path]) -> None:
    """However small it is, also where logits divided by it are no numbers any more."""
    base = load_base_model(str(tiny_folder("llama")), dtype="float32")
    greedy = run(base, PROMPTS, Generation(), never(base), 5)
    for temperature in (1e-6, 1e-45, 5e-324):
        hot = Generation(temperature=temperature)
        assert run(base, PROMPTS, hot, never(base), 5) == greedy
