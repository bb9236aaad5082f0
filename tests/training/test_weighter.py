"""The weighting network: where it begins, what it keeps, how it goes over to other tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from adapterdb.base_model import load_base_model
from adapterdb.errors import Corrupt, InvalidInput
from adapterdb.prompts import DocumentToken, PromptEncoder, Prompts
from adapterdb.training.objective import TrainingPassage
from adapterdb.training.weights.weighter import Weighter, WeighterSpec, transferred, weighter_of
from adapterdb.training.weights.weighting import Camels, weigher_for

TEXTS = [("Boats", "Mara rowed to Oste."), ("", "Nine farms lie at the end of the hill road.")]


def made(tiny_folder: Callable[[str], Path], kind: str = "bert", **spec: Any) -> Weighter:
    """A weighter over a tiny model."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    return weighter_of(base.model, base.encoder, WeighterSpec(**spec))


def stirred(weighter: Weighter) -> Weighter:
    """The same with a last linear that is not zero, so that tokens differ."""
    torch.manual_seed(5)
    torch.nn.init.normal_(weighter.head[2].weight, std=3.0)
    return weighter


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_untrained_weights_are_ln2_over_3(tiny_folder: Callable[[str], Path], kind: str) -> None:
    """With a zero head every token of every passage weighs ln 2 / 3; padding weighs 0."""
    weighter = made(tiny_folder, kind)
    for weights in weighter.weigh(TEXTS):
        assert weights == pytest.approx([math.log(2) / 3] * len(weights))
    mask = torch.tensor([[1, 1, 1, 0]])
    assert weighter(torch.tensor([[5, 6, 7, 0]]), mask)[0, 3] == 0


@pytest.mark.parametrize(
    ("output", "first"), [("none", 0.0), ("sigmoid", 0.5), ("exp", 1.0), ("gelu", 0.0)]
)
def test_other_outputs(tiny_folder: Callable[[str], Path], output: str, first: float) -> None:
    """Every output non-linearity begins at its value at zero; stored weights are never negative."""
    weighter = made(tiny_folder, output=output)
    assert weighter.weigh(TEXTS)[0][3] == pytest.approx(first)
    assert min(min(w) for w in stirred(weighter).weigh(TEXTS)) >= 0


def test_normalized_weights_have_mean_one(tiny_folder: Callable[[str], Path]) -> None:
    """With ``normalize`` the weights of each passage sum to its length, padding left out."""
    weighter = stirred(made(tiny_folder, normalize=True))
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.testing.assert_close(weighter(ids, mask).sum(-1), torch.tensor([4.0, 2.0]))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_body_is_the_lower_layers(tiny_folder: Callable[[str], Path], kind: str) -> None:
    """A body of one layer gives the hidden states of the base's first layer, and is a copy."""
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    body = weighter_of(base.model, base.encoder, WeighterSpec(layers=1)).body
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        want = base.model(ids, output_hidden_states=True).hidden_states[1]
        got = body(ids, output_hidden_states=True).hidden_states[-1]
    if kind != "bert":  # others end in a norm of their own
        norm = body.ln_f if kind == "gpt2" else body.norm
        want = norm(want)
    torch.testing.assert_close(got, want)
    for parameter in body.parameters():
        parameter.data.zero_()
    assert any(p.abs().max() > 0 for p in base.model.parameters())


@pytest.mark.parametrize(("trained", "layers"), [(-1, {0, 1}), (1, {1}), (0, set())])
def test_what_is_trained(
    tiny_folder: Callable[[str], Path], trained: int, layers: set[int]
) -> None:
    """The head always learns; of the body all, the upper layers, or nothing."""
    names = made(tiny_folder, trained_layers=trained).trained()
    assert {n for n in names if n.startswith("head.")} == {
        f"head.{i}.{x}" for i in (0, 2) for x in ("weight", "bias")
    }
    body = {n for n in names if n.startswith("body.")}
    assert {int(n.split("layer.")[1].split(".")[0]) for n in body if "layer." in n} == layers
    assert any("embeddings" in n for n in body) == (trained == -1)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_tensors_rebuild_the_weighter(tiny_folder: Callable[[str], Path], kind: str) -> None:
    """From safetensors alone, without a model folder, the same weights come out, bit for bit."""
    weighter = stirred(made(tiny_folder, kind, layers=1, trained_layers=1))
    again = Weighter.from_tensors(load(save(weighter.to_tensors())))
    assert again.weigh(TEXTS) == weighter.weigh(TEXTS)
    assert again.fingerprint == weighter.fingerprint
    other = stirred(made(tiny_folder, kind, layers=1, trained_layers=1, output="exp"))
    assert other.fingerprint != weighter.fingerprint


def test_wrong_tensors_are_corrupt(tiny_folder: Callable[[str], Path]) -> None:
    """A lost tensor, or facts that say something else, are refused."""
    tensors = made(tiny_folder).to_tensors()
    with pytest.raises(Corrupt):
        Weighter.from_tensors({k: v for k, v in tensors.items() if k != "head.0.weight"})
    facts = json.loads(bytes(tensors["facts"].numpy().tobytes()))
    facts["spec"]["output"] = "import os"
    spoiled = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    with pytest.raises((Corrupt, InvalidInput)):
        Weighter.from_tensors({**tensors, "facts": spoiled})
    with pytest.raises(InvalidInput, match="layers"):
        made(tiny_folder, layers=3)


def tokens(field: str, *spans: tuple[int, int]) -> list[DocumentToken]:
    """Tokens of one field at these places."""
    return [DocumentToken(i, field, a, b) for i, (a, b) in enumerate(spans)]


def test_transfer_conserves_and_hits_the_right_words() -> None:
    """A word cut elsewhere keeps its weight; the sum over characters is kept."""
    # "Mara rowed": source [Mara][ rowed]; target [Ma][ra][ row][ed]
    source, target = (
        tokens("text", (0, 4), (4, 10)),
        tokens("text", (0, 2), (2, 4), (4, 8), (8, 10)),
    )
    got = transferred(source, [3.0, 1.0], target)
    assert got == [3.0, 3.0, 1.0, 1.0]
    back = transferred(target, [1.0, 3.0, 2.0, 5.0], source)
    assert back == [2.0, 3.0]  # (1*2 + 3*2) / 4, (2*4 + 5*2) / 6
    chars = [sum(w * (t.end - t.start) for w, t in zip(ws, ts, strict=True))
             for ws, ts in (([1.0, 3.0, 2.0, 5.0], target), (back, source))]  # fmt: skip
    assert chars[0] == chars[1]
    other = [*tokens("title", (0, 4)), DocumentToken(9, "", 0, 0)]
    assert transferred(source, [3.0, 1.0], other) == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_weigher_goes_over_to_another_base(tiny_folder: Callable[[str], Path], kind: str) -> None:
    """mini's weighter weighs the bytes of another base's words as it weighs those words."""
    mini = load_base_model("mini")
    weighter = stirred(weighter_of(mini.model, mini.encoder, WeighterSpec(layers=1)))
    base = load_base_model(str(tiny_folder(kind)), dtype="float32")
    passage = TrainingPassage("Boats", "Mara rowed to Asker.")
    (weights,) = Camels(base.encoder, weighter)([passage])
    found = base.encoder.document_tokens(passage.title, passage.text)
    ids = base.encoder.document(passage.title, passage.text).text
    assert len(weights) == len(found) == len(ids)
    tokens = mini.encoder.document_tokens("Boats", passage.text)
    weighed = weighter.weigh([("Boats", passage.text)])[0]
    own = {(t.field, t.start): w for t, w in zip(tokens, weighed, strict=True)}
    for word, start in (("Mara", 0), ("to", 11)):
        for at in range(start, start + len(word)):
            token = next(i for i, t in enumerate(found) if (t.field, t.start) == ("text", at))
            assert weights[token] == pytest.approx(own["text", start])
    assert all(w == 0 for w, t in zip(weights, found, strict=True) if not t.field)
    assert len({round(w, 6) for w in weights}) > 3


def test_same_tokens_need_no_transfer(tiny_folder: Callable[[str], Path]) -> None:
    """On its own base the weights are the network's, template tokens included."""
    weighter = stirred(made(tiny_folder, "llama"))
    weigher = weigher_for("camels", weighter.encoder, weighter.to_tensors())
    assert weigher is not None
    (weights,) = weigher([TrainingPassage(*TEXTS[0])])
    assert list(weights) == weighter.weigh(TEXTS[:1])[0]
    encoder = PromptEncoder(Prompts(document="{passages}"), weighter.encoder._tokenizer, 512)
    (moved,) = Camels(encoder, weighter)([TrainingPassage("", "Nine farms.")])
    whole = weighter.weigh([("", "Nine farms.")])[0]
    assert list(moved) == pytest.approx(whole[1:])  # the same without its first, literal token


def test_the_gain_it_was_trained_with_is_kept() -> None:
    """Weights are multiplied by it, also after a round of storing; other gains, other deltas."""
    mini = load_base_model("mini")
    weighter = weighter_of(mini.model, mini.encoder, WeighterSpec(layers=1))
    passage = TrainingPassage("Boats", "Mara rowed to Asker.")
    plain = Camels(mini.encoder, weighter)
    strong = weigher_for("camels", mini.encoder, Camels(mini.encoder, weighter, 4.0).to_tensors())
    assert strong is not None
    (once,), (four,) = plain([passage]), strong([passage])
    assert four == pytest.approx([4 * weight for weight in once])
    assert strong.fingerprint != plain.fingerprint
