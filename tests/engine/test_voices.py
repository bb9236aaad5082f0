"""Beam search against transformers' own, and beams beside other answers in one batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import AskMode, Generation
from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.engine.decode import decode
from adapterdb.engine.plan import AskOptions
from adapterdb.engine.stops import StopRules
from adapterdb.errors import InvalidInput
from adapterdb.layout import plan_layout

PROMPTS = [[1, 40, 41, 42, 43, 44], [1, 90], [1, 60, 61, 62]]


@pytest.fixture
def base(tiny_folder: Callable[[str], Path]) -> BaseModel:
    """A tiny model whose next token is not almost uniform, so that rounding swaps no beams."""
    made = load_base_model(str(tiny_folder("llama")), dtype="float32")
    with torch.no_grad():
        made.model.get_output_embeddings().weight.mul_(8)
    return made


def run(
    base: BaseModel,
    prompts: list[list[int]],
    generation: Generation | list[Generation],
    stops: StopRules,
    n: int | list[int],
    adapted: AdaptedModel | None = None,
) -> list[list[int]]:
    """The answers' tokens of one batch."""
    said: list[list[int]] = [[] for _ in prompts]
    keep = adapted.keep_rows if adapted else None
    for step in decode(base.model, prompts, generation, stops, n, on_keep=keep):
        for row, one in enumerate(step):
            said[row] += [] if one is None else [one.token]
    return said


def theirs(
    base: BaseModel, prompt: list[int], n: int, ends: list[int] | None, **how: float
) -> list[int]:
    """The tokens that transformers' beam search finds, without the one that ends them."""
    ids = torch.tensor([prompt])
    whole = base.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n,
        eos_token_id=ends, pad_token_id=0, **how,
    )  # fmt: skip
    found = whole[0, len(prompt) :].tolist()
    cut = next((at for at, token in enumerate(found) if token in (ends or ())), len(found))
    return found[:cut]


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_beams_say_what_generate_says(base: BaseModel, beams: int, penalty: float) -> None:
    """In one batch, with and without tokens that end answers, as transformers does one by one."""
    free = run(base, PROMPTS, Generation(beams=beams), StopRules(frozenset(), (), str), 10)
    ends = sorted({said[at] for said in free for at in (1, 4)})
    for some in ([], ends[:1], ends):
        generation = Generation(beams=beams, length_penalty=penalty)
        ours = run(base, PROMPTS, generation, StopRules(frozenset(some), (), str), 10)
        for prompt, said in zip(PROMPTS, ours, strict=True):
            how = {"num_beams": beams, "length_penalty": penalty}
            assert said == theirs(base, prompt, 10, some or None, **how)


def test_many_beams_find_the_likeliest_answer(base: BaseModel) -> None:
    """With as many beams as two tokens need none is likelier among all pairs of the best 16."""
    generation = Generation(beams=16, length_penalty=0.0)
    (said,) = run(base, PROMPTS[:1], generation, StopRules(frozenset(), (), str), 2)
    with torch.inference_mode():
        first = base.model(torch.tensor(PROMPTS[:1])).logits[0, -1].log_softmax(-1)
        some = first.topk(16).indices
        asked = torch.tensor([[*PROMPTS[0], token] for token in some.tolist()])
        second = base.model(asked).logits[:, -1].log_softmax(-1)
    totals = first[some][:, None] + second
    row, token = divmod(int(totals.argmax()), second.shape[-1])
    assert said == [int(some[row]), token]


def test_beams_and_others_share_a_batch(base: BaseModel) -> None:
    """Greedy, sampled and searched answers under deltas of their own are those given alone."""
    adapted = AdaptedModel(base.model, plan_layout(LoraSpec(2, 4.0), base.linears()))
    torch.manual_seed(0)
    rows = torch.randn(3, adapted.layout.size) * 0.3
    every = [Generation(beams=3), Generation(), Generation(temperature=1.0, seed=3)]
    never = StopRules(frozenset(), (), str)
    with adapted.using_rows(rows):
        together = run(base, PROMPTS, every, never, [9, 4, 7], adapted)
    for at, n in enumerate((9, 4, 7)):
        with adapted.using_rows(rows[at : at + 1]):
            assert run(base, [PROMPTS[at]], [every[at]], never, n, adapted) == [together[at]]
    assert [len(said) for said in together] == [9, 4, 7]
    adapted.remove()
    assert together[0] != run(base, PROMPTS[:1], every[0], never, 9)[0]


def test_a_stop_text_ends_a_beam(base: BaseModel) -> None:
    """It ends an answer as a stop token does, but is a part of it."""
    searched = Generation(beams=3, length_penalty=0.0)  # ends as soon as it may
    free = run(base, PROMPTS[:1], searched, StopRules(frozenset(), (), str), 8)[0]
    end = free[3]
    by_text = StopRules(frozenset(), ("\n",), lambda ids: "".join("x\n"[i == end] for i in ids))
    by_token = StopRules(frozenset([end]), (), str)
    said = run(base, PROMPTS[:1], searched, by_token, 8)[0]
    assert len(said) < 8
    assert run(base, PROMPTS[:1], searched, by_text, 8)[0] == [*said, end]


def test_log_probabilities_of_beams_are_those_of_the_model(base: BaseModel) -> None:
    """Each token comes with what a forward over the whole answer gives it."""
    never = StopRules(frozenset(), (), str)
    steps = list(decode(base.model, PROMPTS[:1], Generation(beams=4), never, 6))
    said = [one for step in steps for one in step if one is not None]
    tokens = [one.token for one in said]
    with torch.inference_mode():
        logits = base.model(torch.tensor([PROMPTS[0] + tokens])).logits[0].log_softmax(-1)
    want = logits[len(PROMPTS[0]) - 1 : -1].gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor([one.logprob for one in said]), want, atol=1e-4, rtol=0)


def test_beams_are_not_sampled() -> None:
    """Beams at a temperature, too many of them, and a penalty out of range are refused."""
    with pytest.raises(InvalidInput, match="beams 2 can"):
        Generation(beams=2, temperature=0.5)
    with pytest.raises(InvalidInput, match="beams"):
        Generation(beams=17)
    with pytest.raises(InvalidInput, match="length_penalty"):
        Generation(length_penalty=11.0)
    assert Generation(beams=1, temperature=0.5).beams == 1


def test_what_is_not_asked_for_is_as_the_base_model_does_best(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Beams of its prompts for answers without text alone, and never where something is drawn."""
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))
    (folder / "prompts.json").write_text('{"blind_beams": 3, "length_penalty": 0.5}')
    config = Config(base=str(folder), lora=LoraSpec(rank=2), delta_dtype="float32")
    options = LoadOptions(dtype="float32")
    with AdapterDB.create(tmp_path / "home", config, options=options) as db:
        db.ingest([Document("ferry", "The ferry of Almery leaves at nine from the north quay.")])
        planner = db._home.answerer.planner

        def planned(mode: AskMode, **how: float) -> tuple[int | None, float | None]:
            asked = AskOptions(mode=mode, generation=Generation(**how))
            made = planner.plan("Where does the ferry leave?", asked, None).generation
            return made.beams, made.length_penalty

        assert planned("adapter") == planned("base") == (3, 0.5)
        assert planned("rag") == planned("hybrid") == (1, 0.5)
        assert planned("rag", beams=2, length_penalty=2.0) == (2, 2.0)
        assert planned("adapter", beams=1) == planned("adapter", temperature=0.5) == (1, 0.5)
        found = db.ask("When does it leave?", mode="adapter")
        same = db.ask("When does it leave?", mode="adapter", generation=Generation(beams=3))
        assert found.text == same.text
        pieces = list(db.stream("When does it leave?", mode="adapter"))
        assert "".join(piece.text for piece in pieces).strip() == found.text
