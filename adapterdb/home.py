"""A home folder and the models it was built with: made, opened, and loaded when first needed.

Opening reads the catalog only. Whatever is loaded later is held against the fingerprints stored at
creation, and a mismatch is an error, never a guess. Knows nothing of questions or documents.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, TypeVar

from adapterdb.config import FILE_NAME, RECIPE_FILE, Config, read_config, write_config
from adapterdb.errors import Exists, Mismatch, NotFound
from adapterdb.records import check_int

if TYPE_CHECKING:
    from torch import Tensor

    from adapterdb.base_model import BaseModel
    from adapterdb.embedder import Embedder
    from adapterdb.engine.answer import Answerer
    from adapterdb.engine.calibration import Calibration
    from adapterdb.engine.runtime import Runtime
    from adapterdb.ingest.pipeline import Pipeline
    from adapterdb.layout import DeltaLayout
    from adapterdb.starts import Starts
    from adapterdb.store.shared import Shared, SharedPart
    from adapterdb.store.store import Store
    from adapterdb.training.gate.bank import GateBank
    from adapterdb.training.recipes import Recipe
    from adapterdb.training.start import Start
    from adapterdb.training.weights.weighting import Weigher

T = TypeVar("T")
START = "start"  # the name under which a store keeps theta and alpha


@dataclass(frozen=True)
class LoadOptions:
    """How models are loaded.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        slots: deltas resident at once, 1 to 65,536.
        slots_mb: fewer if they would take more than these megabytes, but at least one; 1 to 10^7.
        allow_download: fetch models that are not on this disk.
    """

    device: str = "auto"
    dtype: str = "auto"
    slots: int = 256
    slots_mb: int = 1024
    allow_download: bool = False

    def __post_init__(self) -> None:
        check_int("slots", self.slots, 1, 65_536)
        check_int("slots_mb", self.slots_mb, 1, 10**7)

    def slots_of(self, row_bytes: int) -> int:
        """How many slots there are for rows of that size."""
        return max(1, min(self.slots, self.slots_mb * 2**20 // row_bytes))


class _loaded_once(cached_property[T]):  # noqa: N801 - used like the function it refines
    """A cached property of a home that several threads may ask for at once.

    What is loaded outlives the caller's ``torch.inference_mode``, whose tensors can't be changed
    or trained with afterwards.
    """

    def __get__(self, home: Any, owner: type[Any] | None = None) -> Any:
        import torch  # heavy, and opening a home needs none

        with home._loading, torch.inference_mode(False):
            return super().__get__(home, owner)


class Home:
    """One home folder.

    Attributes:
        path, config, store: what was opened.
        options: how models will be loaded.
        pins: what callers pinned, by namespace and name: the deltas it stood for then.
    """

    def __init__(self, path: Path, config: Config, store: Store, options: LoadOptions) -> None:
        self.path, self.config, self.store, self.options = path, config, store, options
        self._loading = threading.RLock()
        self._parts: dict[str, tuple[Any, SharedPart]] = {}  # kind to what was read, of what
        self.pins: dict[tuple[str, str], list[list[str]]] = {}

    @classmethod
    def create(cls, path: Path, config: Config, catalog: str | None, options: LoadOptions) -> Home:
        """Make a new home; loads both models to remember their fingerprints.

        Raises:
            Exists: if the folder holds something already.
            ModelUnavailable: if a model can't be loaded.
        """
        from adapterdb.base_model import load_base_model
        from adapterdb.embedder import load_embedder
        from adapterdb.store.rows import StoreInfo
        from adapterdb.store.store import Store
        from adapterdb.training.presets import preset_path
        from adapterdb.training.recipes import get_recipe

        if path.exists() and any(path.iterdir()):
            raise Exists(f"{str(path)!r} exists and is not empty", hint="name another folder")
        get_recipe(config.recipe, has_meta_init=False)  # a wrong name costs no loading
        base = load_base_model(
            config.base,
            device=options.device,
            dtype=options.dtype,
            allow_download=options.allow_download,
        )
        embedder = load_embedder(config.embedder, allow_download=options.allow_download)
        recipe, layout, start = _plan(config, base)
        info = StoreInfo(
            base_fingerprint=base.fingerprint,
            embedder_fingerprint=embedder.fingerprint,
            dimension=embedder.dimension,
            layout=layout,
            dtype=config.delta_dtype,
            recipe_fingerprint=recipe.fingerprint,
            extra={"start_fingerprint": start.fingerprint},
        )
        store = Store.create(path, info, catalog_url=catalog)
        store.write_tensors(START, {"theta": start.theta, "alpha": start.alpha})
        given = recipe.name if config.recipe == "auto" else config.recipe
        config = replace(config, recipe=recipe.name)
        copyfile(preset_path(given), path / RECIPE_FILE)
        write_config(config, path / FILE_NAME)  # last: its presence makes the home exist
        home = cls(path, config, store, options)
        home.__dict__.update(base=base, embedder=embedder)
        return home

    @classmethod
    def open(
        cls, path: Path, catalog: str | None, options: LoadOptions, *, read_only: bool = False
    ) -> Home:
        """Open a home that ``create`` made.

        Raises:
            NotFound: code ``no_home`` if there is none.
        """
        from adapterdb.store.store import Store

        if not (path / FILE_NAME).is_file():
            raise NotFound(
                f"no AdapterDB home in {str(path)!r}", code="no_home", hint="run 'adb init' first"
            )
        config = read_config(path / FILE_NAME)
        store = Store.open(path, read_only=read_only, catalog_url=catalog)
        return cls(path, config, store, options)

    @property
    def layout(self) -> DeltaLayout:
        """Of every delta row in this home."""
        return self.store.info.layout

    @_loaded_once
    def base(self) -> BaseModel:
        """The base model; Mismatch if it is not the one the home was made with."""
        from adapterdb.base_model import load_base_model

        base = load_base_model(
            self.config.base,
            device=self.options.device,
            dtype=self.options.dtype,
            allow_download=self.options.allow_download,
        )
        _same("base_model", base.fingerprint, self.store.info.base_fingerprint, self.config.base)
        return base

    @_loaded_once
    def embedder(self) -> Embedder:
        """The embedding model; Mismatch if it is not the one the home was made with."""
        from adapterdb.embedder import load_embedder

        embedder = load_embedder(self.config.embedder, allow_download=self.options.allow_download)
        stored = self.store.info.embedder_fingerprint
        _same("embedder", embedder.fingerprint, stored, self.config.embedder)
        return embedder

    @_loaded_once
    def start(self) -> Start:
        """theta and alpha that every delta of this home was made from."""
        from adapterdb.training.start import Start

        tensors = self.store.read_tensors(START)
        start = Start(tensors["theta"], tensors["alpha"])
        _same("start", start.fingerprint, self.store.info.extra["start_fingerprint"], START)
        return start

    @_loaded_once
    def starts(self) -> Starts:
        """Every shared start of this home: what recipes begin from, what deltas were made at."""
        from adapterdb.starts import Starts

        return Starts(self.store, self.start, lambda: self.base)

    @property
    def shared(self) -> Shared:
        """The trained parts this home keeps."""
        from adapterdb.store.shared import Shared

        return Shared(self.store)

    @_loaded_once
    def recipe(self) -> Recipe:
        """How this home makes deltas unless told otherwise: its own copy of the recipe."""
        from adapterdb.training.presets import load_preset
        from adapterdb.training.recipes import Recipe, get_recipe

        own = self.path / RECIPE_FILE
        if not own.is_file():  # a home of the first version
            return get_recipe(self.config.recipe, has_meta_init=False)
        return replace(load_preset(Recipe, "delta", str(own)), name=self.config.recipe)

    def recipe_for(self, name: str | None = None, weighting: str | None = None) -> Recipe:
        """The recipe called ``name`` (None: the home's own), with another token weighting.

        Raises:
            InvalidInput: for an unknown name or weighting.
        """
        from adapterdb.training.recipes import get_recipe, with_weighting

        recipe = self.recipe if name is None else get_recipe(name, has_meta_init=True)
        return recipe if weighting is None else with_weighting(recipe, weighting)

    def weigher(self, recipe: Recipe) -> Weigher | None:
        """What weighs tokens for ``recipe``; None where all count alike.

        Raises:
            InvalidInput: code ``no_weigher`` if it has to be trained first.
        """
        from adapterdb.training.weights.weighting import weigher_for

        if recipe.weighting == "uniform":
            return None
        part = self.shared.latest(recipe.weighting)
        tensors = None if part is None else self.shared.tensors(part)
        return weigher_for(recipe.weighting, self.base.encoder, tensors)

    @_loaded_once
    def runtime(self) -> Runtime:
        """The base model with its slot pool."""
        from adapterdb.engine.runtime import Runtime
        from adapterdb.store.encoding import read_dtype

        store = self.store
        dtype = read_dtype(store.info.dtype)
        return Runtime(
            self.base,
            self.layout,
            self.start,
            slots=self.options.slots_of(self.layout.size * dtype.itemsize),
            dtype=dtype,
            load=store.read_into,
            starts=self.starts.of_fingerprint,
            gate=self.gate,
        )

    def gate(self) -> GateBank | None:
        """The newest learned gate; None where none has been trained."""
        from adapterdb.training.gate.bank import GateBank

        found = self._newest("gate", GateBank.from_tensors)
        return None if found is None else found[0]

    def calibration(self) -> tuple[Calibration, SharedPart] | None:
        """What mode ``auto`` chooses by, and how it was made; None where none has been trained."""
        from adapterdb.engine.calibration import Calibration

        return self._newest("calibration", Calibration.from_tensors)

    def _newest(
        self, kind: str, read: Callable[[dict[str, Tensor]], T]
    ) -> tuple[T, SharedPart] | None:
        """The newest shared part of a kind, read again only when there is a newer one."""
        part = self.shared.latest(kind)
        if part is None:
            return None
        known = self._parts.get(kind)
        if known is None or known[1].name != part.name:
            known = self._parts[kind] = read(self.shared.tensors(part)), part
        return known

    def drop_resident(self) -> None:
        """Let no delta stay in memory."""
        if "runtime" in self.__dict__:
            self.runtime.drop()

    @_loaded_once
    def answerer(self) -> Answerer:
        """What answers questions from this home."""
        from adapterdb.engine.answer import Answerer
        from adapterdb.engine.plan import Planner

        return Answerer(Planner(self.store, self.embedder, self.runtime, self.config.search))

    def pipeline(self, recipe: Recipe | None = None) -> Pipeline:
        """What takes documents into this home, made by its own recipe or another."""
        from adapterdb.ingest.making import Workshop
        from adapterdb.ingest.pipeline import Pipeline

        recipe = recipe or self.recipe
        shop = Workshop(
            base=self.base,
            adapted=self.runtime.adapted,
            lock=self.runtime.lock,
            start=self.starts.of_recipe(recipe),
            recipe=recipe,
            weigher=self.weigher(recipe),
            embedder=self.embedder,
            config=self.config,
        )
        return Pipeline(self.store, shop)


def _plan(config: Config, base: BaseModel) -> tuple[Recipe, DeltaLayout, Start]:
    """Recipe, layout and shared start of a new home."""
    from adapterdb.layout import plan_layout
    from adapterdb.training.recipes import get_recipe
    from adapterdb.training.start import base_weight, load_meta_init

    recipe = get_recipe(config.recipe, has_meta_init=base.meta_init_path is not None)
    if recipe.produces == "gradient" and base.meta_init_path is not None and config.lora is None:
        return recipe, *load_meta_init(base.meta_init_path)
    layout = plan_layout(config.lora or recipe.lora, base.linears())
    return recipe, layout, base_weight(layout, seed=recipe.seed, alpha=recipe.lr)


def _same(what: str, found: str, stored: str, name: str) -> None:
    if found != stored:
        raise Mismatch(
            f"the {what.replace('_', ' ')} {name!r} has fingerprint {found[:12]},"
            f" this home was made with {stored[:12]}",
            code=f"{what}_mismatch",
            hint="put the original back, or make a new home and ingest again",
        )
