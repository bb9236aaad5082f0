"""Deltas put together for good: as one stored delta, or inside the base model's own weights.

What acts at question time is put together by ``engine.mixing``; here the same mixture is kept. A
merged delta knows its parents: it is deleted and forgotten with any of them. A model folder leaves
the home, and nothing that is forgotten later is taken out of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapterdb.answers import GATES, STORABLE, WEIGHTINGS, Composition, Mixture, Weighting
from adapterdb.engine.fold import folded_weight
from adapterdb.engine.mixing import Mixing
from adapterdb.engine.registered import Registered
from adapterdb.errors import InvalidInput
from adapterdb.exchange import put_row
from adapterdb.home import Home
from adapterdb.ingest.readers import check_document
from adapterdb.model_folder import check_new_folder, write_model_folder
from adapterdb.records import Delta, Document, Metadata, check_number, check_usable

MAX_PARTS = 256  # whose rows are held at once
NAMED = 12  # parents that a merged delta's text tells by name
# whose definition takes every delta whole: means of entries, or directions not written to before
_WHOLE = ("gradient", "ties", "dare_ties", "orthogonal")


def weighed(
    named: Mapping[str, Sequence[Delta]],
    composition: Composition,
    weights: Mapping[str, float] | Weighting | None = None,
    strength: float = 1.0,
) -> tuple[tuple[str, float], ...]:
    """Delta ids and weights of a mixture, in the order named.

    Args:
        named: names, and the deltas that each stands for.
        weights: of each name (1 where it is not there), or ``uniform`` (1 / n) or ``sum`` (1 each);
            None: 1 each for gradient, ties, dare_ties and orthogonal, else 1 / n.
        strength: gamma, multiplies every weight.

    Raises:
        InvalidInput: for no deltas or too many, one that is named twice, or a weight of no name.
    """
    check_number("strength", strength, -100.0, 100.0)
    deltas = [(name, delta.id) for name, some in named.items() for delta in some]
    if not 1 <= len(deltas) <= MAX_PARTS:
        raise InvalidInput(f"{len(deltas)} deltas are named; a merge takes 1 to {MAX_PARTS}")
    if len({delta_id for _, delta_id in deltas}) < len(deltas):
        raise InvalidInput("a delta is named twice", hint="name each once, with its weight")
    if isinstance(weights, Mapping):
        if unknown := sorted(set(weights) - set(named)):
            raise InvalidInput(f"{unknown[0]!r} has a weight, but is not among what is merged")
        numbers = [float(weights.get(name, 1.0)) for name, _ in deltas]
    else:
        how = weights or ("sum" if composition in _WHOLE else "uniform")
        if how not in WEIGHTINGS or how == "score":
            raise InvalidInput(f"weights {how!r} is not one of uniform, sum, and name to number")
        numbers = [1.0 if how == "sum" else 1 / len(deltas)] * len(deltas)
    for number in numbers:
        check_number("weight", number, -1e6, 1e6)
    return tuple((i, strength * w) for (_, i), w in zip(deltas, numbers, strict=True))


class Merger:
    """Makes merged deltas and models of the deltas of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def store(
        self,
        mixture: Mixture,
        name: str,
        namespace: str,
        *,
        text: str = "",
        title: str = "",
        metadata: Metadata | None = None,
    ) -> Delta:
        """Keep a mixture as the delta of a new document, or of its next version.

        Args:
            name: of the document; none of those that are merged.
            text: what it is about: found by it; empty: a line that names what was merged.
            metadata: beside ``composition``, ``weights`` and what else made it.

        Raises:
            InvalidInput: if the mixture can't be kept, or mixes namespaces.
            Corrupt: code ``damaged``, if a delta can't be used any more.
        """
        deltas = [self._home.store.delta(delta_id) for delta_id, _ in mixture.parts]
        for delta in deltas:
            if delta.namespace != namespace:
                raise InvalidInput(
                    f"delta {delta.id} is of namespace {delta.namespace!r}, not {namespace!r}",
                    hint="what is merged stays inside one namespace",
                )
            if delta.document == name:
                raise InvalidInput(
                    f"{name!r} is among what is merged, and would be replaced by it",
                    hint="merge into another name",
                )
        row = self._row(mixture, deltas)
        told = text.strip() or self._told(deltas)
        fields = {**_facts(mixture), **(metadata or {})}
        document = Document(name, told, title or name, "merged", fields)
        home = self._home
        return put_row(
            home.store, home.embedder, home.base, row,
            check_document(document, home.config.limits), namespace, [d.id for d in deltas],
            recipe=f"merge:{mixture.composition}", kind="merged",
        )  # fmt: skip

    def write_model(self, mixture: Mixture, folder: Path) -> Path:
        """Write the base model with a mixture in its weights, as a model folder of its own.

        In float32: what deltas change is small beside the steps of bfloat16.

        Raises:
            Exists: if there is such a folder.
            InvalidInput: for a gate, which no weights can hold, or for nothing.
        """
        home, layout = self._home, self._home.layout
        if mixture.composition in GATES:
            raise InvalidInput(
                f"composition {mixture.composition!r} weighs deltas token by token,"
                " and no weights can hold that",
                hint=f"use one of {', '.join(STORABLE)}",
            )
        if not mixture.parts:
            raise InvalidInput("the mixture is empty: it would change nothing")
        check_new_folder(folder)
        rows, weights = self._acting(mixture, [home.store.delta(i) for i, _ in mixture.parts])
        with home.runtime.lock:  # inside it nothing is folded into the weights
            model = copy.deepcopy(home.base.model).float()
        for index, site in enumerate(layout.sites):
            module = model.get_submodule(site.name)
            a = (weights[:, None, None] * layout.a(rows, index)).flatten(0, 1)
            b = layout.b(rows, index).flatten(0, 1)
            on = module.weight.device
            module.weight.data = folded_weight(
                module, module.weight.data, a.to(on), b.to(on), layout.scale
            )
        return write_model_folder(folder, model, home.base.tokenizer, home.base.encoder.prompts)

    def _row(self, mixture: Mixture, deltas: Sequence[Delta]) -> Tensor:
        """The one factor row ``(P,)`` that a mixture acts as; InvalidInput if it is none."""
        if mixture.composition not in STORABLE:
            raise InvalidInput(
                f"composition {mixture.composition!r} can't be kept as one delta",
                hint=f"use one of {', '.join(STORABLE)}",
            )
        rows, weights = self._acting(mixture, deltas)
        layout = self._home.layout
        if len(rows) > 1:
            raise InvalidInput(
                f"{mixture.composition!r} of these deltas has rank {len(rows) * layout.rank};"
                f" this home's deltas have rank {layout.rank}",
                hint="use --compose svd, which makes the nearest of that rank",
            )
        row = rows[0].clone()
        for index in range(len(layout.sites)):
            layout.b(row, index).mul_(weights[0])
        return row

    def _acting(self, mixture: Mixture, deltas: Sequence[Delta]) -> tuple[Tensor, Tensor]:
        """Factor rows ``(n, P)`` float32 and weights ``(n,)`` as which a mixture acts."""
        home = self._home
        refs = home.store.rows_of([check_usable(delta).id for delta in deltas])
        bank = torch.stack([home.store.read_row(ref).float() for ref in refs])
        known = {
            delta.id: Registered(delta.kind, ref, delta.shared_start)
            for delta, ref in zip(deltas, refs, strict=True)
        }
        slot_of = {delta.id: slot for slot, delta in enumerate(deltas)}
        starts, own = home.starts.of_fingerprint, home.start.fingerprint
        mixing = Mixing(home.layout, bank, slot_of, known, starts, own)
        mixing.add(mixture)
        rows = torch.cat([bank, *(row[None] for row in mixing.composed)])
        (parts,) = mixing.parts
        return rows[[part.row for part in parts]], torch.tensor([part.weight for part in parts])

    def _told(self, deltas: Sequence[Delta]) -> str:
        """A line that names the documents of these deltas, with their titles."""
        store, words = self._home.store, []
        for namespace, name in dict.fromkeys((d.namespace, d.document) for d in deltas):
            title = store.document(namespace, name).title
            words.append(f"{title} ({name})" if title and title != name else name)
        more = len(words) - NAMED
        shown = ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"Merged from: {shown}."


def _facts(mixture: Mixture) -> dict[str, str | int | float | list[str]]:
    """What it takes to make a merged delta again."""
    facts: dict[str, str | int | float | list[str]] = {
        "composition": mixture.composition,
        "weights": [f"{delta_id}={weight:.6g}" for delta_id, weight in mixture.parts],
    }
    if mixture.composition.startswith("dare"):
        facts["seed"] = mixture.dials.seed
    if mixture.dials.density is not None:
        facts["density"] = mixture.dials.density
    return facts
