"""Named presets of how deltas are made: plain data a user can read, copy and change.

name      deltas     from
rg        LoRA       Retrievable Gradient, per-passage LoRA: passage text, 3 epochs
prag      LoRA       PRAG (arXiv 2501.15915): 5 sequences per passage from rewrite and Q&A
gradient  gradient   Meta-PG / ReGrad (arXiv 2606.15734): one backward at theta*
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec


@dataclass(frozen=True)
class Recipe:
    """How the delta of a passage is made.

    Args:
        name: what users call it; stored with each delta.
        produces: ``lora`` (AdamW from the shared start) or ``gradient`` (one backward there).
        sequences: ``passage`` (its text) or ``prag`` (its rewrite and Q&A, see ``objective.py``).
        mask: which tokens carry loss: ``all`` or only the ``answer``.
        lora: which linears, rank and alpha, where the base has no meta-init of its own.
        lr: of AdamW; for ``gradient`` the fixed step alpha used where there is no meta-init.
        weight_decay: of AdamW.
        epochs: passes over the passage's sequences.
        seed: of the shared start (base_weight), which every passage of a home begins from.
    """

    name: str
    produces: Literal["lora", "gradient"]
    sequences: Literal["passage", "prag"] = "passage"
    mask: Literal["all", "answer"] = "all"
    lora: LoraSpec = field(default_factory=LoraSpec)
    lr: float = 3e-4
    weight_decay: float = 0.01
    epochs: int = 1
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """sha256 of every field; part of the key under which a document counts as stored."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("rg", "lora", epochs=3),
        Recipe("prag", "lora", sequences="prag"),
        Recipe(
            "gradient",
            "gradient",
            lora=LoraSpec(rank=16, alpha=32.0, layers="upper-half"),
            lr=1e-2,
        ),
    )
}


def get_recipe(name: str, *, has_meta_init: bool) -> Recipe:
    """The recipe called ``name``; ``auto`` is ``gradient`` with a meta-init, else ``rg``.

    Raises:
        InvalidInput: for an unknown name; the message lists the known ones.
    """
    if name == "auto":
        name = "gradient" if has_meta_init else "rg"
    if name not in RECIPES:
        raise InvalidInput(f"recipe {name!r} is not one of auto, {', '.join(RECIPES)}")
    return RECIPES[name]
