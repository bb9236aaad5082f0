"""What the tester puts into a store: documents, vectors and rows that follow from a serial alone.

So what must be found can be made again without asking the store: a ``Content`` is a few numbers in
the tester's log, and its texts, its vectors and every bit of its delta rows are computed from them.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapterdb.layout import DeltaLayout, Site
from adapterdb.records import Document, Passage
from adapterdb.store import NewDocument, NewPassage, Store, StoreInfo

LAYOUT = DeltaLayout(2, 4.0, (Site("layers.0.up", 20, 12, 0),))
P, D = LAYOUT.size, 8
INFO = StoreInfo("base", "embedder", D, LAYOUT, extra={"note": "made to be killed"})


@dataclass(frozen=True)
class Content:
    """One version of a document.

    Args:
        serial: never used twice in a home; everything else follows from it.
        passages, words: how many, and how many words each.
    """

    namespace: str
    name: str
    serial: str
    passages: int
    words: int

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Content:
        """What ``to_dict`` wrote."""
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the log."""
        return asdict(self)

    @cached_property
    def texts(self) -> list[str]:
        """The passages; the first word of each is found nowhere else."""
        chance = random.Random(self.serial)
        return [
            " ".join([f"{self.serial}p{i}", *(f"w{chance.randrange(10**6)}" for _ in range(words))])
            for i, words in enumerate([self.words] * self.passages)
        ]

    @property
    def text(self) -> str:
        """The whole document."""
        return " ".join(self.texts)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Unit vectors of the passages (n, D)."""
        return np.stack([vector(text) for text in self.texts])

    @cached_property
    def rows(self) -> Tensor:
        """Delta rows (n, P), bfloat16."""
        generator = torch.Generator().manual_seed(_number(self.serial))
        return torch.randn(self.passages, P, generator=generator).bfloat16()


def vector(text: str) -> NDArray[np.float32]:
    """A unit vector (D,) of its own for each text."""
    found = np.random.default_rng(_number(text)).standard_normal(D)
    return (found / np.linalg.norm(found)).astype(np.float32)


def new_documents(store: Store, contents: list[Content]) -> list[NewDocument]:
    """Write the rows of all contents as one weight file; the documents, ready to be committed."""
    refs = iter(store.write_rows(torch.cat([content.rows for content in contents])))
    made = []
    for content in contents:
        passages, at = [], 0
        for i, text in enumerate(content.texts):
            passage = Passage(i, at, at + len(text), text, len(text.split()))
            vector = content.vectors[i]
            passages.append(NewPassage(passage, vector, next(refs), "gradient", "test", 2.0, 1.5))
            at += len(text) + 1
        document = Document(content.name, content.text, metadata={"serial": content.serial})
        sha = hashlib.sha256(content.text.encode()).hexdigest()
        new = NewDocument(content.namespace, document, sha, content.serial, tuple(passages))
        made.append(new)
    return made


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")
