"""The experts of a gate: stored deltas, one for each task, that it learns to choose among.

The document a task is named after holds its delta. Where the deltas were trained along with the
gate, they become new versions of those documents. Knows nothing of how a gate is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adapterdb.errors import InvalidInput, NotFound
from adapterdb.exchange import put_row
from adapterdb.records import Delta, Document, check_usable
from adapterdb.store.store import Store
from adapterdb.training.gate.bank import GateBank
from adapterdb.training.gate.run import Expert
from adapterdb.training.start import Start

if TYPE_CHECKING:
    from torch import Tensor

    from adapterdb.base_model import BaseModel
    from adapterdb.embedder import Embedder


def stored_experts(
    store: Store, starts: Callable[[str], Start], names: Sequence[str], namespace: str
) -> list[Expert]:
    """The deltas of the documents ``names``, each the expert of the task of that name.

    A gradient takes part as what it acts as: its start, stepped once.

    Args:
        starts: fingerprint to the start a gradient was made at.

    Raises:
        NotFound: if a document is not there.
        InvalidInput: if one has several deltas; a token can be sent to one alone.
        Corrupt: if a delta can't be used.
    """
    found = []
    for name in names:
        delta = check_usable(_only_delta(store, name, namespace))
        row = store.read_row(store.rows_of([delta.id])[0]).float()
        if delta.kind == "gradient":
            row = starts(delta.shared_start).step(row)
        found.append(Expert(name, delta.id, row))
    return found


def keep_trained(
    store: Store,
    embedder: Embedder,
    base: BaseModel,
    bank: GateBank,
    names: Sequence[str],
    rows: Tensor,
    namespace: str,
) -> GateBank:
    """Store deltas that learned along with a gate, and bind the gate to them.

    Args:
        names: of the documents, in the order of the gate's ids.
        rows: factors ``(N, P)``.

    Returns:
        The gate with the ids of the new versions.
    """
    ids = []
    for name, row in zip(names, rows, strict=True):
        known = store.document(namespace, name)
        document = Document(
            name, store.text(known.id), title=known.title, source=known.source,
            metadata=known.metadata,
        )  # fmt: skip
        ids.append(put_row(store, embedder, base, row, document, namespace, recipe="gate").id)
    return replace(bank, ids=tuple(ids))


def _only_delta(store: Store, name: str, namespace: str) -> Delta:
    """The one delta of a document."""
    try:
        deltas = store.deltas(store.document(namespace, name).id)
    except NotFound as error:
        raise NotFound(
            f"task {name!r} has no delta: there is no document of that name in {namespace!r}",
            hint=f"train one: adb train experts QUESTIONS --task {name!r}",
        ) from error
    if len(deltas) != 1:
        raise InvalidInput(
            f"document {name!r} has {len(deltas)} deltas; a gate sends tokens to one of each",
            hint="merge them into one first, or name a document with one passage",
        )
    return deltas[0]
