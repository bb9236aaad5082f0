"""Weights of tokens: one for each id, on the right words, of the passage alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapterdb.base_model import load_base_model
from adapterdb.errors import Corrupt, InvalidInput
from adapterdb.prompts import PromptEncoder, Prompts
from adapterdb.training.objective import TrainingPassage
from adapterdb.training.weights.tfidf import Tfidf, fit_tfidf
from adapterdb.training.weights.weighting import Salient, TfidfWeigher, Uniform, weigher_for

TEXTS = ["the boat of the miller", "the mill and the boat", "the hill", "the road to the mill"]


@pytest.fixture(scope="module")
def mini() -> PromptEncoder:
    """The packaged base model's prompts and word pieces."""
    return load_base_model("mini").encoder


def weighed(encoder: PromptEncoder, passage: TrainingPassage, weights: tuple[float, ...]) -> str:
    """The tokens that count, as text."""
    ids = encoder.document(passage.title, passage.text).text
    assert len(ids) == len(weights)
    return encoder.decode([i for i, w in zip(ids, weights, strict=True) if w > 0])


def test_document_tokens_are_the_document(tiny_folder: Callable[[str], Path]) -> None:
    """Tokens with places have the ids of ``document``, and their places spell them."""
    for kind in ("llama", "gpt2", "mini"):
        name = kind if kind == "mini" else str(tiny_folder(kind))
        encoder = load_base_model(name, dtype="float32").encoder
        for title, text in (("Böot", "Mära rowed, [SEP] twice."), ("", "One </s> only.")):
            tokens = encoder.document_tokens(title, text)
            assert [t.id for t in tokens] == encoder.document(title, text).text
            fields = {"title": title, "text": text}
            for name in ("title", "text"):
                covered = {at for t in tokens if t.field == name for at in range(t.start, t.end)}
                seen = [c for at, c in enumerate(fields[name]) if at in covered]
                assert "".join(seen).replace(" ", "") == fields[name].replace(" ", "")


def test_uniform_counts_every_token(mini: PromptEncoder) -> None:
    """Uniform gives 1 to all ids, the template's too; as a weigher of a recipe there is none."""
    (weights,) = Uniform(mini)([TrainingPassage("Boats", "Mara rowed.")])
    assert weights == (1.0,) * len(mini.document("Boats", "Mara rowed.").text)
    assert weigher_for("uniform", mini) is None


def test_salient_counts_names_and_dates_only(mini: PromptEncoder) -> None:
    """Tokens of names and dates count 1, numbers, the rest and the template 0."""
    passage = TrainingPassage(
        "Oste", "In May 1804 the second boat of Mara Lind, 15 % longer, cost $2000 in Asker."
    )
    (weights,) = Salient(mini)([passage])
    assert set(weights) == {0.0, 1.0}
    assert not weights.fell_back
    assert weighed(mini, passage, weights) == "may 1804 mara lind asker"


def test_salient_falls_back_and_says_so(mini: PromptEncoder) -> None:
    """A passage without names or dates is uniform and marked; its neighbours are not."""
    plain, named = Salient(mini)(
        [TrainingPassage("", "the boat is red"), TrainingPassage("", "the boat of Mara")]
    )
    assert plain.fell_back
    assert set(plain) == {1.0}
    assert not named.fell_back
    assert 0.0 in named


def test_tfidf_does_not_depend_on_the_batch(mini: PromptEncoder) -> None:
    """Weights of a passage are the same alone and in company, and after a round of storing."""
    weigher = TfidfWeigher(mini, fit_tfidf(TEXTS, mini))
    passages = [TrainingPassage("", text) for text in TEXTS]
    together = weigher(passages)
    assert [weigher([p])[0] for p in passages] == together
    again = weigher_for("tfidf", mini, fit_tfidf(TEXTS, mini).to_tensors())
    assert again is not None
    assert again(passages) == together
    assert again.fingerprint == weigher.fingerprint


def test_tfidf_is_term_frequency_times_smooth_idf(mini: PromptEncoder) -> None:
    """The table is ln((1 + n) / (1 + df)) + 1, the weights tf times it with mean 1."""
    table = fit_tfidf(TEXTS, mini)
    (the,), (hill,), (snow,) = mini.text("the"), mini.text("hill"), mini.text("snow")
    assert float(table.idf[the]) == pytest.approx(1.0)
    assert float(table.idf[hill]) == pytest.approx(1.0 + torch.tensor(5 / 2).log().item())
    unseen = 1.0 + torch.tensor(5.0).log().item()
    got = table.weights([the, the, hill, snow])
    raw = torch.tensor([2.0, 2.0, float(table.idf[hill]), unseen])
    torch.testing.assert_close(torch.tensor(got), raw / raw.mean())


def test_template_tokens_do_not_count_in_tfidf(mini: PromptEncoder) -> None:
    """[SEP] and the colon between title and text weigh 0, all words more."""
    (weights,) = TfidfWeigher(mini, fit_tfidf(TEXTS, mini))([TrainingPassage("Hill", "the mill")])
    assert [w > 0 for w in weights] == [True, False, True, True, False]


def test_behind_a_prompt_the_first_token_counts(mini: PromptEncoder) -> None:
    """A name at the very start is learned where a prompt stands before it, else nothing is."""
    alone = PromptEncoder(Prompts(document="{passages}"), mini._tokenizer, 512)
    passage = TrainingPassage("", "1804")
    (behind,), (first,) = Salient(mini)([passage]), Salient(alone)([passage])
    assert (behind.fell_back, first.fell_back) == (False, True)


def test_weighers_that_need_training_say_so(mini: PromptEncoder) -> None:
    """tfidf and camels without tensors are refused with a code; wrong tensors are corrupt."""
    for name in ("tfidf", "camels"):
        with pytest.raises(InvalidInput) as caught:
            weigher_for(name, mini)
        assert caught.value.code == "no_weigher"
        with pytest.raises(Corrupt):
            weigher_for(name, mini, {"other": torch.zeros(2)})
    with pytest.raises(InvalidInput, match="not one of"):
        weigher_for("best", mini)
    with pytest.raises(InvalidInput, match="no token"):
        fit_tfidf(["", ""], mini)
    with pytest.raises(Corrupt):
        Tfidf.from_tensors({"idf": torch.zeros(3), "texts": torch.tensor(1)})
