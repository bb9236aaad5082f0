"""A base model in this process as a generator."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb.base_model import BaseModel, load_base_model
from adapterdb.errors import InvalidInput, Rejected
from adapterdb.ingest.augment.asking import AskingModel
from adapterdb.ingest.augment.choice import open_generator
from adapterdb.ingest.augment.endpoint import Endpoint
from adapterdb.ingest.augment.generator import Sampling
from adapterdb.ingest.augment.journal import Journaled, Recorded
from adapterdb.ingest.augment.local import LocalGenerator

PROMPTS = ["The mill", "A weir was built above the old bridge", "Hay"]


@pytest.fixture(scope="module", params=["llama", "bert"])
def base(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> BaseModel:
    return load_base_model(str(tiny_folder(request.param)), device="cpu", dtype="float32")


def test_a_greedy_text_does_not_depend_on_its_neighbours(base: BaseModel) -> None:
    """A batch says what its prompts say alone."""
    together = LocalGenerator(base).generate(PROMPTS, Sampling(12))
    alone = [LocalGenerator(base).generate([p], Sampling(12))[0] for p in PROMPTS]
    assert together == alone == LocalGenerator(base, at_once=2).generate(PROMPTS, Sampling(12))
    assert len(set(together)) > 1


def test_a_seed_fixes_a_drawn_text(base: BaseModel) -> None:
    """The same seed draws the same, and leaves the process's own generator as it was."""
    drawn = {
        seed: LocalGenerator(base).generate(PROMPTS, Sampling(12, temperature=1.0, seed=seed))
        for seed in (1, 2)
    }
    state = torch.random.get_rng_state()
    again = LocalGenerator(base).generate(PROMPTS, Sampling(12, temperature=1.0, seed=1))
    assert again == drawn[1] != drawn[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_stop_texts_end_a_text(base: BaseModel) -> None:
    """What follows the first of them is cut off, and they are too."""
    [whole] = LocalGenerator(base).generate(PROMPTS[:1], Sampling(12))
    stop = whole[3:5]
    [cut] = LocalGenerator(base).generate(PROMPTS[:1], Sampling(12, (stop,)))
    assert cut == whole[: whole.index(stop)].strip()


def test_too_long(base: BaseModel) -> None:
    """A prompt that leaves no room is rejected, not cut."""
    with pytest.raises(Rejected) as caught:
        LocalGenerator(base).generate(["x" * 600], Sampling(12))
    assert caught.value.code == "too_long"


def test_chat_template(tiny_folder: Callable[[str], Path]) -> None:
    """Where the tokenizer has one, the prompt is a user's turn."""
    base = load_base_model(str(tiny_folder("llama")), device="cpu", dtype="float32")
    base.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    ids = LocalGenerator(base)._encode("Hay")
    assert base.encoder.decode(ids) == "<user>Hay<assistant>"


def test_asking_goes_through_the_models_own_templates(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """Answers and passages are filled in; a long passage is cut so that a question fits."""
    folder = tiny_folder("llama")
    with pytest.raises(InvalidInput):
        AskingModel(load_base_model(str(folder), device="cpu"))
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "prompts.json").write_text('{"ask": "{answer}|{passages}|", "passage": "{text}"}')
    base = load_base_model(str(tmp_path), device="cpu", dtype="float32")
    model = AskingModel(base)
    ids = model._encode('{"ask": "</s>hay", "title": "T", "text": "dry hay"}')
    assert base.encoder.decode(ids) == "</s>hay|dry hay|"
    assert base.tokenizer.eos_token_id not in ids
    long = "".join(random.Random(0).choices("abcdef ", k=2000))
    ids = model._encode(f'{{"ask": "hay", "title": "", "text": "{long}"}}')
    assert len(ids) == 512 - 32
    texts = model.generate([f'{{"question": "{q}?", "title": "", "text": "b"}}' for q in "xy"],
                           Sampling(5))  # fmt: skip
    assert len(texts) == 2


def test_choice(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    """Names lead to generators; nothing is loaded for a URL or a journal."""

    def load() -> BaseModel:
        return load_base_model(str(tiny_folder("llama")), device="cpu", dtype="float32")

    def never() -> BaseModel:
        raise AssertionError

    local = open_generator("local", load)
    assert isinstance(local, LocalGenerator)
    assert isinstance(open_generator("http://h/v1", never, model="m"), Endpoint)
    journal = tmp_path / "j.jsonl"
    said = Journaled(local, journal).generate(PROMPTS, Sampling(4))
    recorded = open_generator(str(journal), never)
    assert isinstance(recorded, Recorded)
    assert (recorded.name, recorded.fingerprint) == (local.name, local.fingerprint)
    assert recorded.generate(PROMPTS, Sampling(4)) == said
    with pytest.raises(Rejected):
        recorded.generate(PROMPTS, Sampling(5))
    for wrong in ("nowhere", str(tmp_path)):
        with pytest.raises(InvalidInput):
            open_generator(wrong, never)
