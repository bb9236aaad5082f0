"""Reopens a home after something terrible and compares it with the tester's logs.

Everything acknowledged must be there to the bit (version, text, passages, delta rows, and nothing
else), the one operation that was pending must have happened wholly or not at all, a search must
equal brute force over what the logs say, and ``check`` must find nothing worse than work left for
the index. A judgement is a list of violations in words; empty means all is well.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapterdb.errors import AdapterDBError, NotFound
from adapterdb.records import StoredDocument
from adapterdb.store import Finding, Store, check
from adapterdb.store.upkeep.forget import resume
from benchmarks.reliability import ledger
from benchmarks.reliability.contents import Content, D, new_documents
from benchmarks.reliability.ledger import Account, Key, Ledger, Model

HITS = 10
UNFINISHED = {"outbox_pending", "erasure_pending"}  # findings that a kill may leave
SEARCHES = 3
EARLIER = 2  # retired versions of a name that are looked at


@dataclass(frozen=True)
class Bounds:
    """What the judge may expect of a home.

    Args:
        index_damaged: something destroyed the index from outside; it may be rebuilt.
        read_only: open for reading, and leave everything as it is.
        goes_on: commit one more document afterwards and find it.
    """

    index_damaged: bool = False
    read_only: bool = False
    goes_on: bool = True


STRICT = Bounds()


def judge(home: Path, logs: Sequence[Path], bounds: Bounds = STRICT, *, seed: int = 0) -> list[str]:
    """What is wrong in ``home``, by the logs of all its workers; settles what was pending there."""
    try:
        with Store.open(home, read_only=bounds.read_only) as store:
            return _judge(store, logs, bounds, seed)
    except AdapterDBError as error:
        return [f"{type(error).__name__} ({error.code}): {error}"]


def _judge(store: Store, logs: Sequence[Path], bounds: Bounds, seed: int) -> list[str]:
    wrong = _findings(check(store, deep=True), may_be_unfinished=True, damaged=bounds.index_damaged)
    observed = {(d.namespace, d.name): d for d in store.documents(limit=10**9)}
    model = Model()
    for log in logs:
        account = ledger.read(log)
        own = {key: d for key, d in observed.items() if key[1].startswith(f"doc-{log.stem}")}
        settled, differences = _settled(store, own, account)
        wrong += [f"worker {log.stem}: {line}" for line in differences]
        if account.pending is not None:
            book = Ledger(log)
            book.settle(happened=settled is not account.model)
            book.close()
        model = Model({**model.names, **settled.names})
    stray = [key for key in observed if not key[1].startswith(tuple(f"doc-{x.stem}" for x in logs))]
    wrong += [f"document {key} was put in by nobody" for key in stray]
    if wrong:
        return wrong
    chance = random.Random(seed)
    wrong += _searches(store, model, chance)
    if bounds.read_only:
        return wrong
    resume(store)
    for namespace in {*store.outbox.namespaces(), *store.outbox.indexed()}:
        store.apply_outbox(namespace)  # also where nothing is pending: the index may be damaged
    wrong += _findings(check(store, deep=True), may_be_unfinished=False, damaged=False)
    wrong += _searches(store, model, chance)
    return wrong + (_one_more(store, logs[0]) if bounds.goes_on else [])


def _findings(found: Iterable[Finding], *, may_be_unfinished: bool, damaged: bool) -> list[str]:
    def fine(finding: Finding) -> bool:
        return (
            finding.severity == "note"
            or (may_be_unfinished and finding.code in UNFINISHED)
            or (damaged and finding.code.startswith("index_"))
        )

    when = "" if may_be_unfinished else " after applying"
    return [
        f"check{when}: {finding.code}: {finding.what}" for finding in found if not fine(finding)
    ]


def _settled(
    store: Store, observed: dict[Key, StoredDocument], account: Account
) -> tuple[Model, list[str]]:
    """The model that the home agrees with, and, if with none, the differences."""
    before = account.model
    if account.pending:
        after = before.after(account.pending)
        if not _differences(store, observed, after):
            return after, []
    differences = _differences(store, observed, before)
    if not account.pending or not differences:
        return before, differences
    words = f"{account.operation} was pending and neither happened wholly nor not at all: "
    return before, [words + line for line in differences]


def _differences(store: Store, observed: dict[Key, StoredDocument], model: Model) -> list[str]:
    active = model.active
    lines = [f"{key} is lost" for key in sorted(active.keys() - observed.keys())]
    lines += [f"{key} should not be found" for key in sorted(observed.keys() - active.keys())]
    for key in sorted(active.keys() & observed.keys()):
        version, content = active[key]
        if observed[key].version != version:
            lines.append(f"{key} has version {observed[key].version}, not {version}")
        else:
            lines += [f"{key}: {line}" for line in _unlike(store, observed[key], content)]
        versions = model.names[key].versions
        for earlier in range(max(1, version - EARLIER), version):
            lines += _earlier(store, key, earlier, versions[earlier - 1])
    return lines


def _earlier(store: Store, key: Key, version: int, content: Content) -> list[str]:
    """What is wrong with a retired version; one from before a delete may be gone."""
    try:
        document = store.document(key[0], f"{key[1]}@{version}")
    except NotFound:
        return []
    return [f"{key}@{version}: {line}" for line in _unlike(store, document, content)]


def _unlike(store: Store, document: StoredDocument, content: Content) -> list[str]:
    """What of a stored version is not exactly as it was put in."""
    try:
        if store.text(document.id) != content.text:
            return ["another text"]
        passages = store.passages(document.id)
        if [passage.text for passage in passages] != content.texts:
            return ["other passages"]
        rows = torch.stack([store.read_row(passage.row) for passage in passages])
        if not torch.equal(rows, content.rows):
            return ["other delta rows"]
    except AdapterDBError as error:
        return [f"{type(error).__name__} ({error.code}): {error}"]
    return []


def _searches(store: Store, model: Model, chance: random.Random) -> list[str]:
    """Where searches differ from brute force over ``model``."""
    wrong = []
    by_space: dict[str, list[Content]] = {}
    for (namespace, _), (_, content) in sorted(model.active.items()):
        by_space.setdefault(namespace, []).append(content)
    gone = [h.versions[-1] for h in model.names.values() if h.versions and not h.active]
    for namespace, contents in by_space.items():
        texts = np.array([text for content in contents for text in content.texts])
        vectors = np.concatenate([content.vectors for content in contents])
        for _ in range(SEARCHES):
            query = np.array([chance.gauss(0, 1) for _ in range(D)], np.float32)
            query /= np.linalg.norm(query)
            cosines = vectors @ query
            best = np.argsort(-cosines)[:HITS]
            hits = store.search_vectors(namespace, query, HITS)
            found = [hit.passage.text for hit in hits]
            if found != list(texts[best]) or not np.allclose(
                [hit.score for hit in hits], cosines[best], atol=1e-5
            ):
                wrong.append(f"a search in {namespace!r} found {found}, not {list(texts[best])}")
        for content in chance.sample(contents, min(SEARCHES, len(contents))):
            word, want = content.texts[0].split()[0], content.texts[0]
            texts_found = [hit.passage.text for hit in store.search_text(namespace, word, HITS)]
            if want not in texts_found:
                wrong.append(f"the word {word!r} finds {texts_found}, not {want!r}")
    for content in chance.sample(gone, min(SEARCHES, len(gone))):
        hits = store.search_vectors(content.namespace, content.vectors[0], 1)
        if hits and hits[0].passage.text == content.texts[0]:
            wrong.append(f"the deleted {content.texts[0]!r} is found")
    return wrong


def _one_more(store: Store, log: Path) -> list[str]:
    """Work goes on: one more document is taken in and found."""
    book = Ledger(log)
    serial = f"{log.stem}{book.begun}after"
    content = Content("default", f"doc-{serial}", serial, 2, 5)
    book.begin("ingest", [ledger.put(content)])
    document = store.commit(new_documents(store, [content]))[0]
    book.done()
    book.close()
    store.apply_outbox()
    hits = store.search_vectors("default", content.vectors[0], 1)
    wrong = _unlike(store, document, content)
    if [hit.passage.text for hit in hits] != content.texts[:1]:
        wrong.append("a document taken in afterwards is not found")
    return wrong
