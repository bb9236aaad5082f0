"""The shared starts of a home: which one a recipe begins from, and which one a delta was made at.

    base_weight   from the seed, the same on every machine
    meta-init     the newest trained one; else the one shipped with the base model; else base_weight
    ft            the newest task-tuned row ('adb train ft')

A start that gradient deltas are made at is kept in the store, since they act from it ever after.
Knows nothing of passages.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from adapterdb.base_model import BaseModel
from adapterdb.errors import InvalidInput, NotFound
from adapterdb.layout import DeltaLayout
from adapterdb.store.shared import Shared, SharedPart
from adapterdb.store.store import Store
from adapterdb.training.recipes import Recipe
from adapterdb.training.start import Start, base_weight, load_meta_init

KEPT = "start"  # kind of a start that is kept only because deltas name it


class Starts:
    """Starts of one home.

    Args:
        original: the start the home was made with.
        base: gives the base model; called only where its own meta-init is asked for.
    """

    def __init__(self, store: Store, original: Start, base: Callable[[], BaseModel]) -> None:
        self._shared, self._base, self._read_only = Shared(store), base, store.read_only
        self._layout: DeltaLayout = store.info.layout
        self._known = {original.fingerprint: original}

    def of_recipe(self, recipe: Recipe) -> Start:
        """What ``recipe`` begins from now; kept durably if its deltas will act from it.

        Raises:
            InvalidInput: code ``no_start`` if it wants a task-tuned one and there is none.
        """
        start = self._begin(recipe)
        if recipe.produces != "gradient" or start.fingerprint in self._known:
            return start
        kept = any(part.fingerprint == start.fingerprint for part in self._shared.parts())
        if not kept and not self._read_only:
            self.keep(KEPT, start, {"recipe": recipe.name, "start": recipe.start})
        self._known[start.fingerprint] = start
        return start

    def keep(self, kind: str, start: Start, facts: dict[str, object]) -> SharedPart:
        """Keep a trained start as the newest of its kind; recipes begin from it from now on."""
        tensors = {"theta": start.theta, "alpha": start.alpha}
        return self._shared.keep(kind, tensors, fingerprint=start.fingerprint, facts=facts)

    def of_fingerprint(self, fingerprint: str) -> Start:
        """The start that deltas name so; NotFound."""
        if fingerprint not in self._known:
            self._known[fingerprint] = self._read(self._shared.find(fingerprint))
        return self._known[fingerprint]

    def _begin(self, recipe: Recipe) -> Start:
        plain = base_weight(self._layout, seed=recipe.seed, alpha=recipe.lr)
        if recipe.start == "base_weight":
            return plain
        trained = self._shared.latest(recipe.start)
        if trained is not None:
            start = self.of_fingerprint(trained.fingerprint)
            if recipe.start == "ft":  # it has no step sizes of its own
                return Start(start.theta, torch.full_like(start.theta, recipe.lr))
            return start
        if recipe.start == "ft":
            raise InvalidInput(
                f"recipe {recipe.name!r} begins from a task-tuned start, and there is none",
                code="no_start",
                hint="train one with 'adb train ft QUESTIONS'",
            )
        return self._of_base() or plain

    def shipped(self) -> Start:
        """The meta-init that came with the base model.

        Raises:
            NotFound: if none did, or none with this home's layout.
        """
        start = self._of_base()
        if start is None:
            raise NotFound("the base model came without a meta-init for this home's layout")
        return start

    def _of_base(self) -> Start | None:
        path = self._base().meta_init_path
        if path is None:
            return None
        layout, start = load_meta_init(path)
        return start if layout == self._layout else None

    def _read(self, part: SharedPart) -> Start:
        tensors = self._shared.tensors(part)
        return Start(tensors["theta"], tensors["alpha"])
