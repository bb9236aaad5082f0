"""How much each token of a passage counts when a delta is fitted to it.

    uniform   all alike
    salient   names and dates 1, all else 0 (salient span masking's choice)
    tfidf     tf * idf
    camels    what a trained network says (Hu et al., arXiv 2305.15076)

A weigher gives each passage one number >= 0 for every text id of ``encoder.document``.
It sees one passage at a time, so weights never depend on which others are ingested with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from adapterdb.errors import InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.training.objective import TrainingPassage
from adapterdb.training.weights import salient
from adapterdb.training.weights.tfidf import Tfidf
from adapterdb.training.weights.weighter import Weighter, tensors_fingerprint, transferred

GAIN = "gain"  # among the tensors of a network
WEIGHTINGS = ("uniform", "salient", "tfidf", "camels")


class Weights(tuple[float, ...]):
    """The weights of a passage's tokens.

    Attributes:
        fell_back: they are uniform because the weigher found nothing to tell tokens apart by.
    """

    fell_back: bool

    def __new__(cls, values: Iterable[float], *, fell_back: bool = False) -> Weights:
        """The weights, and whether they are a last resort."""
        made = super().__new__(cls, values)
        made.fell_back = fell_back
        return made


class Weigher(Protocol):
    """Gives every passage the weights of its tokens."""

    @property
    def name(self) -> str:
        """Which of ``WEIGHTINGS`` it is."""

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides the weights, but for the base model's tokenizer."""

    def __call__(self, passages: Sequence[TrainingPassage]) -> list[Weights]:
        """One number >= 0 for each text id of each passage's ``encoder.document``."""


class Uniform:
    """Every token counts 1, also those of the template."""

    name = "uniform"
    fingerprint = hashlib.sha256(b"uniform").hexdigest()

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder

    def __call__(self, passages: Sequence[TrainingPassage]) -> list[Weights]:
        """Ones."""
        lengths = [len(self._encoder.document(p.title, p.text).text) for p in passages]
        return [Weights([1.0] * length) for length in lengths]


class Salient:
    """Tokens of names and dates count 1, all others 0; a passage without any is uniform.

    Args:
        encoder: of the base model.
        pipeline: an installed spaCy pipeline; empty means the rules of ``salient``.
    """

    name = "salient"

    def __init__(self, encoder: PromptEncoder, pipeline: str = "") -> None:
        self._encoder = encoder
        self._find = salient.spacy_finder(pipeline) if pipeline else salient.rule_spans
        rules = f"spacy {pipeline}" if pipeline else f"rules {salient.VERSION}"
        self.fingerprint = hashlib.sha256(f"salient {rules}".encode()).hexdigest()

    def __call__(self, passages: Sequence[TrainingPassage]) -> list[Weights]:
        """1 for tokens that share a character with a salient span, else 0."""
        return [self._one(passage) for passage in passages]

    def _one(self, passage: TrainingPassage) -> Weights:
        tokens = self._encoder.document_tokens(passage.title, passage.text)
        spans = {"title": self._find(passage.title), "text": self._find(passage.text), "": []}
        weights = [
            float(any(start < t.end and t.start < end for start, end in spans[t.field]))
            for t in tokens
        ]
        return _or_uniform(weights, self._encoder)


class TfidfWeigher:
    """Tokens count tf * idf, scaled to mean 1 over the passage; those of the template 0.

    Args:
        encoder: of the base model whose tokens ``table`` was fitted on.
        table: see ``tfidf.fit_tfidf``.
    """

    name = "tfidf"

    def __init__(self, encoder: PromptEncoder, table: Tfidf) -> None:
        self._encoder, self._table = encoder, table
        self.fingerprint = table.fingerprint

    def __call__(self, passages: Sequence[TrainingPassage]) -> list[Weights]:
        """tf * idf of the passage's own tokens."""
        return [self._one(passage) for passage in passages]

    def _one(self, passage: TrainingPassage) -> Weights:
        tokens = self._encoder.document_tokens(passage.title, passage.text)
        found = iter(self._table.weights([t.id for t in tokens if t.field]))
        weights = [next(found) if t.field else 0.0 for t in tokens]
        return _or_uniform(weights, self._encoder)


class Camels:
    """Tokens count what a trained network says.

    For a base model with another tokenizer or another template the weights go over by characters
    (CaMeLS' transfer from a small proxy); tokens of its template count 0 then.

    Args:
        encoder: of the base model the weights are for.
        weighter: the network, with its own encoder.
        gain: what its weights are multiplied by, as they were when it was trained.
    """

    name = "camels"

    def __init__(self, encoder: PromptEncoder, weighter: Weighter, gain: float = 1.0) -> None:
        self._encoder, self._weighter, self._gain = encoder, weighter, gain

    @property
    def fingerprint(self) -> str:
        """sha256 of the network and its gain."""
        return tensors_fingerprint(self.to_tensors())

    def to_tensors(self) -> dict[str, Tensor]:
        """Network and gain as named tensors, which ``weigher_for`` reads."""
        return {**self._weighter.to_tensors(), GAIN: torch.tensor(self._gain)}

    def __call__(self, passages: Sequence[TrainingPassage]) -> list[Weights]:
        """The network's weights, carried over where the tokens are others."""
        texts = [(p.title, p.text) for p in passages]
        found = [[self._gain * w for w in each] for each in self._weighter.weigh(texts)]
        return [self._carried(*text, weights) for text, weights in zip(texts, found, strict=True)]

    def _carried(self, title: str, text: str, weights: list[float]) -> Weights:
        ids = self._encoder.document(title, text).text
        if ids == self._weighter.encoder.document(title, text).text:
            return Weights(weights)
        source = self._weighter.encoder.document_tokens(title, text)
        target = self._encoder.document_tokens(title, text)
        return Weights(transferred(source, weights, target))


def weigher_for(
    name: str, encoder: PromptEncoder, tensors: Mapping[str, Tensor] | None = None
) -> Weigher | None:
    """The weigher called ``name``; None for ``uniform``, which needs none.

    Args:
        name: one of ``WEIGHTINGS``.
        encoder: of the base model.
        tensors: what ``tfidf`` and ``camels`` were trained to (their ``to_tensors``).

    Raises:
        InvalidInput: for an unknown name; code ``no_weigher`` if it has to be trained first.
        Corrupt: if the tensors are others.
    """
    if name == "uniform":
        return None
    if name == "salient":
        return Salient(encoder)
    if name not in WEIGHTINGS:
        raise InvalidInput(f"weighting {name!r} is not one of {', '.join(WEIGHTINGS)}")
    if tensors is None:
        raise InvalidInput(
            f"weighting {name!r} has to be trained first",
            code="no_weigher",
            hint=f"'adb train {name}' does that",
        )
    if name == "tfidf":
        return TfidfWeigher(encoder, Tfidf.from_tensors(tensors))
    network = {key: tensor for key, tensor in tensors.items() if key != GAIN}
    gain = float(tensors.get(GAIN, torch.tensor(1.0)))
    return Camels(encoder, Weighter.from_tensors(network), gain)


def _or_uniform(weights: list[float], encoder: PromptEncoder) -> Weights:
    """The weights, or ones where none of them counts: a sequence's first token is never said."""
    if any(weights if encoder.prompts.document_prompt else weights[1:]):
        return Weights(weights)
    return Weights([1.0] * len(weights), fell_back=True)
