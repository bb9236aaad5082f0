"""Inverse document frequencies of a base model's tokens, fitted once on a corpus.

They are kept as a table by token id, so that the weights of a passage depend on the corpus they
were fitted on and on the passage, never on what else is ingested with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adapterdb.errors import Corrupt, InvalidInput
from adapterdb.prompts import PromptEncoder
from adapterdb.training.weights.weighter import tensors_fingerprint


@dataclass(frozen=True)
class Tfidf:
    """How rare tokens are.

    Args:
        idf: ``(V,)`` float32 by token id: ln((1 + n) / (1 + df)) + 1, scikit-learn's smooth idf.
        texts: n, how many it was fitted on.
    """

    idf: Tensor
    texts: int

    def weights(self, ids: Sequence[int]) -> list[float]:
        """tf * idf of each of a passage's token ids, scaled to mean 1; tf is a share of ``ids``."""
        counts = Counter(ids)
        raw = [counts[i] * self._idf(i) for i in ids]
        mean = sum(raw) / len(raw) if raw else 1.0
        return [value / mean for value in raw]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the table."""
        return tensors_fingerprint(self.to_tensors())

    def to_tensors(self) -> dict[str, Tensor]:
        """The table as named tensors."""
        return {"idf": self.idf, "texts": torch.tensor(self.texts)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Tfidf:
        """The table that ``to_tensors`` gave; Corrupt if these are others."""
        idf, texts = tensors.get("idf"), tensors.get("texts")
        if idf is None or texts is None or idf.ndim != 1 or not bool((idf > 0).all()):
            raise Corrupt(f"these tensors are no idf table: {sorted(tensors)}")
        return cls(idf.float(), int(texts))

    def _idf(self, token: int) -> float:
        if token < len(self.idf):
            return float(self.idf[token])
        return float(torch.tensor(1.0 + self.texts).log() + 1)  # in no text


def fit_tfidf(texts: Sequence[str], encoder: PromptEncoder) -> Tfidf:
    """Count in how many of ``texts`` each token occurs.

    Raises:
        InvalidInput: if there is no text with a token in it.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    counter = CountVectorizer(analyzer=encoder.text, binary=True)
    try:
        counts = counter.fit_transform(texts)
    except ValueError as error:
        raise InvalidInput(f"{len(texts)} texts hold no token to count") from error
    fitted = TfidfTransformer(smooth_idf=True).fit(counts)
    ids = torch.tensor(counter.get_feature_names_out().astype(int))
    unseen = torch.tensor(1.0 + len(texts)).log() + 1
    idf = unseen.expand(int(ids.max()) + 1).clone()
    idf[ids] = torch.tensor(fitted.idf_, dtype=torch.float32)
    return Tfidf(idf, len(texts))
