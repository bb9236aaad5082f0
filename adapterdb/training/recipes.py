"""How the delta of a passage is made, as data: an objective, weights on tokens, an optimizer.

    sequences   what is learned: the passage, PRAG's five sequences, Q&A, facts, reading tasks
    mask        which of its tokens carry loss
    weighting   how much each of them counts (CaMeLS and its baselines)
    optimizer   the inner rule, from the shared start: AdamW, plain SGD
    produces    the factors after that (``lora``), or one gradient at the start (``gradient``)

The shipped recipes are the files of kind ``delta`` in ``adapterdb/presets``; a copy of one is
named by its path.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Literal, cast, get_args

from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec
from adapterdb.records import check_int, check_number
from adapterdb.training.presets import load_preset

Produces = Literal["lora", "gradient"]
Sequences = Literal["passage", "prag", "questions", "facts", "reading"]
Mask = Literal["all", "answer"]
Weighting = Literal["uniform", "salient", "tfidf", "camels"]
Normalize = Literal["valid_tokens", "sum_to_len"]
Optimizer = Literal["adamw", "sgd"]
StartKind = Literal["base_weight", "meta-init", "ft"]

# the fields of the first version: they are always part of the fingerprint, newer ones only where
# they say something else than they used to mean, so that documents stored then still count
_FIRST = (
    "name", "produces", "sequences", "mask", "lora", "lr", "weight_decay", "epochs", "seed",
)  # fmt: skip
_NOT_MADE_OF = ("about",)


@dataclass(frozen=True)
class Recipe:
    """How the delta of a passage is made.

    Args:
        name: what users call it; stored with each delta.
        produces: ``lora`` (the optimizer's result from the shared start) or ``gradient`` (one
            backward there, ReGrad).
        about: a line for people.
        sequences: ``passage`` (its text), ``prag`` (its rewrite and Q&A, five sequences),
            ``questions`` (its Q&A alone, blind), ``facts`` (its atomic facts and their Q&A,
            KnowledgeUpdate), ``reading`` (text and tasks mined from it, see ``objective``).
        mask: which tokens carry loss: ``all``, or only the ``answer`` of a question.
        weighting: ``uniform``, ``salient`` (names, numbers, dates), ``tfidf``, or ``camels`` (a
            network trained for it), over the tokens of the passage.
        normalize: of weighted losses: the mean over labelled tokens of w * CE as it is
            (``valid_tokens``), or with w scaled to mean 1 first (``sum_to_len``).
        optimizer: ``adamw``, or ``sgd`` without momentum.
        lr: of the optimizer; for ``gradient`` the step alpha where the start has none of its own.
        weight_decay: of AdamW.
        epochs: passes over the passage's sequences.
        batch: sequences of a passage in one step; 0 means all of them.
        start: what it begins from: ``base_weight`` (A random, B zero), ``meta-init`` (theta*,
            alpha; base_weight where the home has none) or ``ft`` (a LoRA fitted to a task).
        seed: of base_weight, which every passage of a home begins from.
        max_tokens: sequences are cut to this many tokens; 0 means to what the base model takes.
        lora: which linears, rank and alpha, where nothing else in the home says so.
    """

    name: str
    produces: Produces
    about: str = ""
    sequences: Sequences = "passage"
    mask: Mask = "all"
    weighting: Weighting = "uniform"
    normalize: Normalize = "valid_tokens"
    optimizer: Optimizer = "adamw"
    lr: float = 3e-4
    weight_decay: float = 0.01
    epochs: int = 1
    batch: int = 1
    start: StartKind = "base_weight"
    seed: int = 0
    max_tokens: int = 0
    lora: LoraSpec = field(default_factory=LoraSpec)

    def __post_init__(self) -> None:
        where = f"recipe {self.name!r}: "
        check_number(where + "lr", self.lr, 0.0, 1e3)
        check_number(where + "weight_decay", self.weight_decay, 0.0, 1e3)
        check_int(where + "epochs", self.epochs, 1, 10_000)
        check_int(where + "batch", self.batch, 0, 10_000)
        check_int(where + "seed", self.seed, 0, 2**63 - 1)
        check_int(where + "max_tokens", self.max_tokens, 0, 10**6)
        if self.weighting != "uniform" and self.sequences != "passage":
            raise InvalidInput(
                f"{where}weighting {self.weighting!r} weighs the tokens of a passage;"
                f" its sequences are {self.sequences!r}",
                hint="use sequences = 'passage', or weighting = 'uniform'",
            )

    @property
    def fingerprint(self) -> str:
        """sha256 of every field that decides; part of the key of a stored document."""
        every = asdict(self)
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        if self.produces == "gradient":
            defaults["start"] = "meta-init"  # what it always meant
        kept = {
            name: value
            for name, value in every.items()
            if name not in _NOT_MADE_OF and (name in _FIRST or value != defaults.get(name, MISSING))
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def get_recipe(name: str, *, has_meta_init: bool) -> Recipe:
    """The recipe called ``name``, or in the file at that path.

    ``auto`` is ``gradient`` with a meta-init, else ``rg``.

    Raises:
        InvalidInput: for an unknown name; the message lists the known ones.
    """
    if name == "auto":
        name = "gradient" if has_meta_init else "rg"
    return load_preset(Recipe, "delta", name)


def with_weighting(recipe: Recipe, weighting: str) -> Recipe:
    """``recipe`` with other weights on tokens.

    Raises:
        InvalidInput: for an unknown weighting, or sequences that have no weights.
    """
    if weighting not in get_args(Weighting):
        raise InvalidInput(
            f"weighting {weighting!r} is not one of {', '.join(get_args(Weighting))}"
        )
    return replace(recipe, weighting=cast(Weighting, weighting))
