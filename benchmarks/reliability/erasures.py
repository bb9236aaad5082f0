"""T16: fifty documents with canaries are forgotten, and no byte of the home knows of them.

The secrets lie in many ways: alone, in a weight file with documents that stay, in several versions,
brought back, deleted before, with deltas derived from them (of their present version, of an earlier
one, deleted with them, replaced since). Around them are a process that has read them and keeps the
home open, earlier generations of the index, what a killed writer left, and a quarantine. They are
forgotten in several calls. Then

- no file of the home holds their text, name, title, source, metadata, vectors or rows, in UTF-8,
  UTF-16, base64 or compressed, and the index holds no passage and no word of them;
- what stays has the same rows to the bit, and is found with the same scores;
- the home is as one that never held them: same documents, rows and search results.

With ``--answers`` a home with the shipped model forgets two documents of ``examples/corpus``, and
answers questions about the others with the same words as before.

    python benchmarks/reliability/erasures.py [--documents 50] [--seed S] [--answers]
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("LANCE_LOG", "error")

import torch
from contents import INFO, P, vector

from adapterdb.records import Document, Passage, StoredDocument
from adapterdb.store import NewDocument, NewPassage, Store, check
from adapterdb.store.upkeep.forget import forget, unfinished

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "safetensors.torch", "sqlalchemy.orm"])
KINDS = (
    "alone",
    "shared file",
    "versions",
    "brought back",
    "deleted",
    "derived",
    "derived from an earlier version",
    "derived and deleted",
    "derived and replaced",
)
SPACES = ("default", "other")
MADE = "made"  # where derived documents are; nothing there is compared
ALL, QUERIES, PIECE = 10_000, 20, 24


class Text(NamedTuple):
    """A document to be stored; of a secret one every field but the namespace is a canary."""

    namespace: str
    name: str
    title: str
    source: str
    note: str
    passages: tuple[str, ...]

    @property
    def whole(self) -> str:
        """The document's text."""
        return " ".join(self.passages)

    @property
    def rows(self) -> torch.Tensor:
        """Delta rows (n, P)."""
        seed = int.from_bytes(hashlib.sha256(self.whole.encode()).digest()[:6], "little")
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self.passages), P, generator=generator).bfloat16()


def written(chance: random.Random, namespace: str, name: str = "") -> Text:
    """A document of words that occur nowhere else."""

    def words(count: int) -> str:
        return " ".join(f"{chance.randrange(16**12):012x}" for _ in range(count))

    passages = tuple(words(chance.randint(4, 30)) for _ in range(chance.randint(1, 3)))
    return Text(namespace, name or words(2), words(3), words(2), words(2), passages)


def put(store: Store, *texts: Text, parents: Sequence[str] = ()) -> list[StoredDocument]:
    """Store documents in one commit, their rows in one file."""
    refs = iter(store.write_rows(torch.cat([text.rows for text in texts])))
    made = []
    for text in texts:
        passages, at = [], 0
        for i, part in enumerate(text.passages):
            passage = Passage(i, at, at + len(part), part, len(part.split()))
            entry = NewPassage(
                passage, vector(part), next(refs), "gradient", "test", parents=tuple(parents)
            )
            passages.append(entry)
            at += len(part) + 1
        document = Document(text.name, text.whole, text.title, text.source, {"note": text.note})
        sha = hashlib.sha256(text.whole.encode()).hexdigest()
        made.append(NewDocument(text.namespace, document, sha, "key", tuple(passages)))
    return store.commit(made)


def hide(store: Store, kind: str, chance: random.Random, kept: Text) -> tuple[Text, list[Text]]:
    """Store ``kept`` and, as ``kind`` says, a secret; its last version, and all that is secret."""
    secret = written(chance, kept.namespace)
    older = written(chance, secret.namespace, secret.name)
    child = written(chance, MADE)
    everything = [secret]
    if kind == "shared file":
        put(store, kept, secret)
        return secret, everything
    put(store, kept)
    if kind in ("versions", "brought back", "derived from an earlier version"):
        first = put(store, older)[0]
        everything.append(older)
        if kind == "derived from an earlier version":
            put(store, child, parents=[store.deltas(first.id)[0].id])
            everything.append(child)
    stored = put(store, secret)[0]
    if kind == "brought back":
        store.rollback(secret.namespace, secret.name, 1)
    if kind in ("derived", "derived and deleted", "derived and replaced"):
        put(store, child, parents=[store.deltas(stored.id)[0].id])
        everything.append(child)
    if kind == "derived and replaced":
        put(store, Text(MADE, child.name, "", "", "", ("of nothing secret",)))
        everything[-1] = child._replace(name="")  # the name may stay with its new text
    if kind in ("deleted", "derived and deleted"):
        store.delete(secret.namespace, [secret.name])
    return secret, everything


def needles(text: Text) -> Iterator[tuple[str, bytes]]:
    """What must be found nowhere: the kind of trace, and its bytes."""
    labels = {"name": text.name, "title": text.title, "source": text.source, "note": text.note}
    strings = [(kind, value) for kind, value in labels.items() if value]
    strings += [("text", part) for part in text.passages]
    strings += [("word", word) for part in text.passages for word in part.split()[:2]]
    for kind, value in strings:
        plain = value.encode()
        yield kind, plain
        yield f"{kind} in UTF-16", value.encode("utf-16-le")
        for start in range(3):  # wherever it lies in a longer text
            cut = (len(plain) - start) // 3 * 3
            yield f"{kind} in base64", base64.b64encode(plain[start : start + cut])
    for value in (*text.passages, text.whole):
        for level in (1, 6, 9):
            yield "compressed text", zlib.compress(value.encode(), level)[2:-4]
    for part in text.passages:
        yield "vector", vector(part).tobytes()
    for row in text.rows:
        data = row.view(torch.uint8).numpy().tobytes()
        yield from (("row", data[at : at + PIECE]) for at in (0, P - PIECE // 2, 2 * P - PIECE))


def traces(home: Path, secrets: Sequence[Text]) -> tuple[Counter[str], list[str]]:
    """How often each kind of trace is found in the files of a home, and where."""
    counts, where = Counter[str](), []
    wanted = {needle: kind for text in secrets for kind, needle in needles(text)}
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        for data in _contents(path):
            for needle, kind in wanted.items():
                if needle in data:
                    counts[kind] += 1
                    where.append(f"{kind} in {path.relative_to(home)}")
    return counts, where


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is compressed in it."""
    data = path.read_bytes()
    yield data
    at = data.find(b"\x1f\x8b\x08")
    while at >= 0:
        try:
            yield gzip.decompress(data[at:])
        except (OSError, EOFError, zlib.error):
            stream = zlib.decompressobj(31)
            with suppress(zlib.error):  # three bytes that only look like gzip
                yield stream.decompress(data[at:])
        at = data.find(b"\x1f\x8b\x08", at + 1)


class Look(NamedTuple):
    """What can be seen of the documents that stay."""

    documents: list[tuple[str, ...]]
    rows: list[bytes]
    vectors: list[tuple[str, float]]
    words: list[tuple[str, float]]


def look(store: Store, kept: Sequence[Text], seed: int) -> Look:
    """Look at the documents that stay; searches are random, and for their words."""
    chance, names = random.Random(seed), {(text.namespace, text.name) for text in kept}
    documents = [d for d in store.documents(limit=ALL) if (d.namespace, d.name) in names]
    rows = [
        store.read_row(passage.row).view(torch.uint8).numpy().tobytes()
        for document in documents
        for passage in store.passages(document.id)
    ]
    vectors, words = [], []
    for _ in range(QUERIES):
        space, word = chance.choice(SPACES), chance.choice(chance.choice(kept).whole.split())
        hits = store.search_vectors(space, vector(str(chance.random())), ALL)
        found = [hit for hit in hits if (space, hit.passage.document) in names]
        vectors += [(hit.passage.text, round(hit.score, 6)) for hit in found]
        hits = store.search_text(space, word, ALL)
        words += [(hit.passage.text, round(hit.score, 4)) for hit in hits]
    told = [
        (d.namespace, d.name, str(d.version), d.title, d.source, d.text_sha256, str(d.metadata))
        for d in documents
    ]
    return Look(told, rows, vectors, words)


def keep_reading(home: str, secrets: list[Text], ready: Event, go: Event, report: Any) -> None:
    """In a child: read everything, keep the home open, and search again when all is forgotten."""
    logging.disable(logging.CRITICAL)
    try:
        with Store.open(Path(home)) as store:

            def read() -> set[str]:
                hits = [hit for s in SPACES for hit in store.search_vectors(s, vector("x"), ALL)]
                for hit in hits:
                    store.read_row(hit.passage.row)
                return {hit.passage.text for hit in hits}

            secret = {part for text in secrets for part in text.passages}
            before = len(read() & secret)
            ready.set()
            go.wait(3600)
            after = read() & secret
            report.put((before, [f"a reader still finds {text!r}" for text in after]))
    except Exception as error:
        ready.set()
        report.put((0, [f"a reader failed: {type(error).__name__}: {error}"]))


def write_and_die(home: str, secret: Text, step: str) -> None:
    """In a child: begin to store a secret, and die."""

    def die(now: str) -> None:
        if now == step:
            os._exit(9)

    put(Store.open(Path(home), on_step=die), secret)


def erase(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """The whole test on new homes; counts, and what went wrong."""
    chance = random.Random(seed)
    kept = [written(chance, chance.choice(SPACES)) for _ in range(count)]
    with Store.create(folder / "never", INFO) as never:
        for text in kept:
            put(never, text)
        never.apply_outbox()
        want = look(never, kept, seed)
    counts, wrong, secrets, names = Counter[str](), [], [], []
    home = folder / "home"
    with Store.create(home, INFO) as store:
        for i, text in enumerate(kept):
            last, everything = hide(store, KINDS[i % len(KINDS)], chance, text)
            names.append((last.namespace, last.name))
            secrets += everything
            if i % 10 == 5:
                store.apply_outbox()
                store.applier.rebuild(text.namespace, 10)
        for step in ("staged", "durable"):
            secrets.append(written(chance, "default"))
            child = FORKS.Process(target=write_and_die, args=(str(home), secrets[-1], step))
            child.start()
            child.join(120)
        store.apply_outbox()
        store.paths.quarantine.mkdir()
        for name in sorted(store.weights.names()):
            shutil.copy(store.weights.path(name), store.paths.quarantine)
        before = look(store, kept, seed)
        found, _ = traces(home, secrets)
        counts.update({f"{kind} before": n for kind, n in found.items()})
        wrong += [f"no {kind} was there to begin with" for kind in
                  ("name", "title", "source", "note", "text", "vector", "row")
                  if not found[kind]]  # fmt: skip
        ready, go, report = FORKS.Event(), FORKS.Event(), FORKS.Queue()
        reader = FORKS.Process(
            target=keep_reading, args=(str(home), secrets, ready, go, report), daemon=True
        )
        reader.start()
        ready.wait(300)
        for space in SPACES:
            chosen = [name for namespace, name in names if namespace == space]
            chance.shuffle(chosen)
            while chosen:
                some = [chosen.pop() for _ in range(min(len(chosen), chance.randint(1, 12)))]
                receipt = forget(store, space, some)
                counts["calls"] += 1
                counts["forgotten"] += receipt.documents
                counts["versions"] += receipt.versions
                wrong += [f"the receipt names {path}" for path in receipt.residue]
        go.set()
        known, lines = report.get(timeout=300)
        reader.join(60)
        counts["read by the reader before"] = known
        wrong += lines
        found, where = traces(home, secrets)
        counts["traces"] = found.total()
        counts["files"] = sum(path.is_file() for path in home.rglob("*"))
        wrong += where + compare(store, kept, secrets, before, want, seed)
    return counts, wrong


def compare(
    store: Store, kept: Sequence[Text], secrets: Sequence[Text], before: Look, want: Look, seed: int
) -> list[str]:
    """Where a home after forgetting is not as before, or not as one that never held the secrets."""
    wrong, after = [], look(store, kept, seed)
    if (after.documents, after.rows) != (before.documents, before.rows):
        wrong.append("a document that stays is not as it was")
    if after.vectors != before.vectors:
        wrong.append("a document that stays is found otherwise")
    for name in Look._fields:
        if getattr(after, name) != getattr(want, name):
            wrong.append(f"{name} are not those of a home that never held the secrets")
    listed = {d.name for d in store.documents(limit=ALL)}
    wrong += [f"{text.name} is listed" for text in secrets if text.name in listed]
    indexed = {
        part
        for space, generation in store.outbox.indexed().items()
        for rows in store.index.scan(space, generation)
        for part in rows.texts
    }
    for text in secrets:
        wrong += [f"{part!r} is in the index" for part in text.passages if part in indexed]
        for space in (*SPACES, MADE):
            if store.search_text(space, text.passages[0], 1):
                wrong.append(f"a word of {text.name} is found in {space}")
    if unfinished(store):
        wrong.append("something is unfinished")
    return wrong + [f"{f.code}: {f.what}" for f in check(store, deep=True)]


def main() -> int:
    """Run the bar and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--answers", action="store_true", help="also ask the shipped model")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="erasures-"))
    counts, wrong = erase(folder, options.documents, options.seed)
    if options.answers:
        from erased_answers import compare_answers

        asked, lines = compare_answers(folder / "answers", options.seed)
        counts.update(asked)
        wrong += lines
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    summary = {
        "program": "erasures",
        **vars(options),
        "seconds": round(time.monotonic() - began, 1),
        **dict(sorted(counts.items())),
        "violations": len(wrong),
    }
    print(json.dumps(summary), flush=True)
    if wrong:
        print(f"kept for inspection: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
