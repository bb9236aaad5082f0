"""What a home was built with, as one file a person can read: ``adapterdb.toml``.

Owns defaults and the refusal of unknown keys. Knows nothing of models: names and numbers only.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from adapterdb.errors import InvalidInput
from adapterdb.layout import LoraSpec
from adapterdb.records import check_int, check_number

FILE_NAME = "adapterdb.toml"
RECIPE_FILE = "recipe.toml"  # the home's own copy of its recipe: a person can read it
DeltaDtype = Literal["bfloat16", "float16", "float32", "int8"]


@dataclass(frozen=True)
class ChunkConfig:
    """How documents are cut into passages, in tokens of the base model's tokenizer."""

    tokens: int = 160  # about 120 English words, the passage size the shipped mini was trained on
    overlap: int = 0

    def __post_init__(self) -> None:
        check_int("chunk tokens", self.tokens, 16, 8192)
        check_int("chunk overlap", self.overlap, 0, self.tokens // 2)


@dataclass(frozen=True)
class SearchConfig:
    """How hits become mixtures.

    ``k``: hits used; None leaves it to the base model's prompts. ``min_similarity``: hits under
    this cosine are not used. ``temperature``: of the softmax over similarities that gives ``cat``
    its weights. ``norm_cap``: no delta acts with more than this many times the typical norm of the
    deltas of its kind around it; 0 for no cap.
    """

    k: int | None = None
    min_similarity: float = 0.2
    temperature: float = 0.05  # with mini, 0.03 to 0.1 did best for k = 2 and 3 on "tune" questions
    # one in twenty of mini's gradients is over it, none of rg's LoRA; one poisoned delta of five
    # then has a share of the merged change of at most 0.6 where an honest one has 0.45
    norm_cap: float = 1.15

    def __post_init__(self) -> None:
        if self.k is not None:
            check_int("k", self.k, 1, 100)
        check_number("min_similarity", self.min_similarity, -1.0, 1.0)
        check_number("temperature", self.temperature, 1e-4, 100.0)
        if self.norm_cap != 0:
            check_number("norm_cap", self.norm_cap, 1.0, 1e6)


@dataclass(frozen=True)
class LimitConfig:
    """Sizes beyond which a document is rejected before it is read whole."""

    document_bytes: int = 10 * 2**20
    passages: int = 20_000

    def __post_init__(self) -> None:
        check_int("document_bytes", self.document_bytes, 1, 2**40)
        check_int("passages", self.passages, 1, 10**7)


@dataclass(frozen=True)
class RetentionConfig:
    """What ``gc`` keeps of the past.

    Args:
        versions: replaced versions kept of each document; None keeps all.
        days: how long a replaced version is kept; None keeps it for good.
        deleted_days: how long a deleted document can be brought back.
    """

    versions: int | None = None
    days: float | None = None
    deleted_days: float = 30.0

    def __post_init__(self) -> None:
        if self.versions is not None:
            check_int("retention versions", self.versions, 0, 10**9)
        if self.days is not None:
            check_number("retention days", self.days, 0, 10**5)
        check_number("retention deleted_days", self.deleted_days, 0, 10**5)


@dataclass(frozen=True)
class Config:
    """Everything fixed when a home is made.

    Args:
        base: ``"mini"``, a folder, or a Hub id (used only if already on disk).
        embedder: ``"minilm"`` (the packaged all-MiniLM-L6-v2), a folder, or a Hub id.
        recipe: name of a training recipe, or ``"auto"``: gradient deltas where the base model
            comes with a meta-init, ``rg`` LoRA deltas elsewhere.
        lora: which linears, rank, alpha; None takes the meta-init's or the recipe's own.
        delta_dtype: how rows are stored; int8 takes 0.69 of bfloat16's bytes (``store.encoding``).
    """

    base: str = "mini"
    embedder: str = "minilm"
    recipe: str = "auto"
    lora: LoraSpec | None = None
    delta_dtype: DeltaDtype = "bfloat16"
    chunk: ChunkConfig = field(default_factory=ChunkConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    limits: LimitConfig = field(default_factory=LimitConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)

    def __post_init__(self) -> None:
        if self.delta_dtype not in get_args(DeltaDtype):
            allowed = ", ".join(get_args(DeltaDtype))
            raise InvalidInput(f"delta_dtype {self.delta_dtype!r} is not one of {allowed}")

    def with_lora(self, **changes: Any) -> Config:
        """This config with some fields of ``lora`` replaced."""
        return replace(self, lora=replace(self.lora or LoraSpec(), **changes))


def write_config(config: Config, path: Path) -> None:
    """Write ``config`` to ``path`` as TOML."""
    import tomli_w  # only the one command that makes a home writes TOML

    data = _without_none(asdict(config))
    if config.lora is not None:
        data["lora"]["targets"] = list(config.lora.targets)
    path.write_text(tomli_w.dumps(data), encoding="utf-8")


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: what is None is left out."""
    kept = {key: value for key, value in data.items() if value is not None}
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in kept.items()}


def read_config(path: Path) -> Config:
    """The config in the file at ``path``.

    Raises:
        InvalidInput: if it is not TOML, has an unknown key, or a value of the wrong kind.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error
    parts: dict[str, Any] = dict(data)
    for name, kind in (
        ("chunk", ChunkConfig),
        ("search", SearchConfig),
        ("limits", LimitConfig),
        ("retention", RetentionConfig),
        ("lora", LoraSpec),
    ):
        if name in parts:
            parts[name] = _build(kind, parts[name], f"{path} [{name}]")
    config = _build(Config, parts, str(path))
    assert isinstance(config, Config)
    return config


def _build(kind: Any, data: Any, where: str) -> Any:
    """``kind(**data)``, with unknown keys and wrong types named."""
    if not isinstance(data, dict):
        raise InvalidInput(f"{where}: expected a table, found {data!r}")
    known = [entry.name for entry in fields(kind)]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise InvalidInput(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidInput(f"{where}: {error}") from error
