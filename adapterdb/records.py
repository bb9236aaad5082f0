"""What flows between the layers: plain frozen records, no behaviour beyond checks and ``to_dict``.

A record's ``to_dict`` is exactly what the command line prints under ``--json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from adapterdb.errors import Corrupt, InvalidInput

DeltaKind = Literal["lora", "gradient", "imported", "cluster", "merged"]
ChangeKind = Literal["put", "rollback", "delete", "forget"]
SearchKind = Literal["hybrid", "vector", "text"]
MetadataValue = str | int | float | bool | list[str]
Metadata = Mapping[str, MetadataValue]


class Record:
    """Gives every record below its plain-data form."""

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able data, nested records included."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Fact(Record):
    """An atomic fact of a passage, and what asks for it (KnowledgeUpdate).

    Args:
        text: one self-contained statement.
        qa: question and answer pairs to learn it from.
        held_out: pairs that are never learned from: they ask whether it was learned.
        roles: in whose voice each pair of ``qa`` asks; empty, or as long as ``qa``.
    """

    text: str
    qa: tuple[tuple[str, str], ...] = ()
    held_out: tuple[tuple[str, str], ...] = ()
    roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Augmentation(Record):
    """What was written about ``document.text[start:end]``, to make its delta from.

    It belongs to the passage that holds the middle of its span, however the text is cut later.

    Args:
        theme: a few words.
        rewrite: a paraphrase.
        qa: question and answer pairs.
        facts: atomic facts, each with its own pairs.
    """

    start: int
    end: int
    theme: str = ""
    rewrite: str = ""
    qa: tuple[tuple[str, str], ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Document(Record):
    """A text to be taken in.

    Args:
        name: unique in its namespace; by default the path below the corpus folder.
        text: the whole text, as read.
        title: shown with every passage, or an empty string.
        source: where it was read from, for people.
        metadata: fields that ``--where`` can use; ``tag`` holds a list of strings.
        rewrite: a paraphrase of the text, for recipe ``prag``.
        qa: question and answer pairs about the text, for recipe ``prag``.
        augmented: what was written about its passages (``adb augment``).
    """

    name: str
    text: str
    title: str = ""
    source: str = ""
    metadata: Metadata = field(default_factory=dict)
    rewrite: str = ""
    qa: tuple[tuple[str, str], ...] = ()
    augmented: tuple[Augmentation, ...] = ()


@dataclass(frozen=True)
class Passage(Record):
    """A chunk of a document: ``text == document.text[start:end]``, in characters."""

    ordinal: int
    start: int
    end: int
    text: str
    tokens: int


@dataclass(frozen=True)
class StoredDocument(Record):
    """A document version in the catalog.

    ``version`` counts from 1 for each name; ``seq`` is the commit order over the whole home.
    """

    id: int
    namespace: str
    name: str
    version: int
    title: str
    source: str
    text_sha256: str
    metadata: Metadata
    passages: int
    created_at: str
    seq: int


@dataclass(frozen=True)
class Change(Record):
    """Something that happened to a document.

    Args:
        seq: its number; changes of the whole home are counted.
        at: when it was committed, UTC.
        op: ``put`` (new or changed), ``rollback`` (an earlier version again), ``delete``,
            ``forget``.
        version: that came of it, or that it ended.
        kept: whether that version is still stored.
    """

    seq: int
    at: str
    op: ChangeKind
    namespace: str
    name: str
    version: int
    kept: bool = True


@dataclass(frozen=True)
class Delta(Record):
    """A stored delta and where it came from.

    Args:
        id: 32 hex digits of sha256 over namespace, name, version, ordinal and the row's sha256.
        kind: ``lora`` (factors), ``gradient`` (to be stepped from theta*), ``imported`` (factors),
            ``cluster`` (factors shared by the passages of a cluster), ``merged`` (factors made of
            other deltas).
        norm: how strongly it acts: L2 norm of a gradient, or of the weight change of LoRA factors.
        loss_before: mean LM loss per token of its own passage, nats, without the delta.
        loss_after: the same with the delta; None where not measured.
        loss_shifted: the same with another passage's delta; None where not measured.
        flag: why it is doubted (``encodes_nothing``, ``not_specific``), or ``withdrawn``: what it
            was made from has been deleted; else empty.
        own: its passage is among those it was made from; not so for the members of a cluster that
            others represent.
        damaged: it can't be used, and is passed over until its document is ingested again.
        shared_start: fingerprint of the start it was made from, and is stepped from if it is a
            gradient; empty where none is known.
    """

    id: str
    kind: DeltaKind
    namespace: str
    document: str
    version: int
    passage_id: int
    start: int
    end: int
    dtype: str
    size_bytes: int
    norm: float
    recipe: str
    loss_before: float | None
    loss_after: float | None
    created_at: str
    loss_shifted: float | None = None
    flag: str = ""
    own: bool = True
    damaged: bool = False
    shared_start: str = ""


@dataclass(frozen=True)
class Hit(Record):
    """A passage found for a question, with the delta made from it.

    Args:
        similarity: cosine of question and passage vectors, -1..1.
        score: the ranking score (reciprocal rank fusion for ``hybrid``), higher is better.
        rank: 1 for the best.
    """

    passage_id: int
    delta_id: str
    kind: DeltaKind
    namespace: str
    document: str
    version: int
    title: str
    start: int
    end: int
    text: str
    similarity: float
    score: float
    rank: int


@dataclass(frozen=True)
class DocumentResult(Record):
    """What became of one document of an ingest, made known after its commit.

    ``event`` is ``committed``, ``skipped`` (already stored under the same key) or ``rejected``.
    """

    event: Literal["committed", "skipped", "rejected"]
    id: str
    namespace: str
    version: int = 0
    seq: int = 0
    passages: int = 0
    text_sha256: str = ""
    delta_ids: tuple[str, ...] = ()
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Progress(Record):
    """State of a running ingest; ``passages_total`` is None while it is not known."""

    documents_done: int
    passages_done: int
    passages_total: int | None
    seconds: float
    last: DocumentResult | None = None


@dataclass(frozen=True)
class IngestReport(Record):
    """Totals of an ingest: counts of documents, passages fitted, bytes of deltas written."""

    added: int
    updated: int
    skipped: int
    rejected: int
    passages: int
    size_bytes: int
    seconds: float
    failures: tuple[DocumentResult, ...] = ()


@dataclass(frozen=True)
class Estimate(Record):
    """What an ingest would cost, from the texts and a short trial that stores nothing."""

    documents: int
    known: int
    rejected: int
    passages: int
    tokens: int
    trial_passages: int
    seconds_per_passage: float
    seconds: float
    size_bytes: int


def check_int(name: str, value: object, low: int, high: int) -> int:
    """``value`` if it is an int (not a bool) in ``low..high``, else InvalidInput naming it."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{name} is {value!r}; allowed is a whole number from {low} to {high}")
    return value


def check_number(name: str, value: object, low: float, high: float) -> float:
    """``value`` as float if it is finite and in ``low..high``, else InvalidInput naming it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"{name} is {value!r}; allowed is a number from {low:g} to {high:g}")
    return float(value)


def check_usable(delta: Delta) -> Delta:
    """``delta`` unless it can't be used any more, else Corrupt, code ``damaged``."""
    if delta.damaged:
        raise Corrupt(
            f"delta {delta.id} can't be used: its row is lost, or was made from something deleted",
            code="damaged",
            hint=f"ingest document {delta.document!r} again",
        )
    return delta


NAMESPACE_CHARS = 64


def check_namespace(namespace: object) -> str:
    """``namespace`` if it is 1 to 64 printable characters, else InvalidInput."""
    ok = isinstance(namespace, str) and 0 < len(namespace) <= NAMESPACE_CHARS
    if not ok or not str(namespace).isprintable():
        raise InvalidInput(
            f"namespace {namespace!r} is not allowed: 1 to {NAMESPACE_CHARS} printable characters"
        )
    return str(namespace)
