"""Documents in, augmented rows out: one document after the other, each durable before the next.

A run that is stopped goes on where it was: finished documents are in the output, finished prompts
of the one it was at are in the journal. Opens no document and loads no model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapterdb.errors import InvalidInput, ModelUnavailable, Rejected
from adapterdb.ingest.augment.asking import ask_facts, ask_prag
from adapterdb.ingest.augment.dictation import Dictation
from adapterdb.ingest.augment.facts import write_facts
from adapterdb.ingest.augment.generator import TextGenerator
from adapterdb.ingest.augment.journal import Journaled, Recorded
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.prag import write_prag
from adapterdb.ingest.augment.rows import AugmentedFile, Coverage, key_of, row_of
from adapterdb.ingest.augment.tags import write_tags
from adapterdb.ingest.augment.written import Account, Lack, PassageWriting, Piece
from adapterdb.ingest.chunking import chunk
from adapterdb.ingest.rejection import Rejection
from adapterdb.records import Document, MetadataValue, Record

GIVE_UP_AFTER = 3  # documents in a row that the generator failed on


@dataclass(frozen=True)
class AugmentStep(Record):
    """What became of one document.

    Args:
        documents: seen so far.
        seconds: since the beginning.
    """

    event: Literal["written", "kept", "failed"]
    id: str
    documents: int
    seconds: float
    facts: int = 0
    pairs: int = 0
    message: str = ""


@dataclass(frozen=True)
class AugmentReport(Record):
    """What a run came to, what earlier runs wrote about the same documents included.

    Args:
        written: documents; kept: those that were done before; failed: those without a row.
        pairs: to learn from, of facts and of passages.
        uncovered: facts without any such pair: document, start of the passage, the fact.
        asked: prompts sent; retried: prompts sent again because the answer was of no use.
        skipped: what was left out on purpose, how often, by reason.
        lacks: what is missing after the last retry, and failed documents.
        notes: what this generator can't do.
    """

    written: int
    kept: int
    failed: int
    passages: int
    facts: int
    pairs: int
    held_out: int
    rewrites: int
    tagged: int
    uncovered: tuple[tuple[str, int, str], ...]
    asked: int
    retried: int
    skipped: dict[str, int]
    lacks: tuple[Lack, ...]
    notes: tuple[str, ...]
    generator: str
    seconds: float


class Augmenter:
    """Writes about documents with one generator, by one plan.

    Args:
        generator: what writes; its journal is kept beside the output.
        plan: what is wanted.
        tokenizer: that passages are counted with: the base model's that will take them in.
        out: the file of rows.
        resume: keep the rows and the journal that are there.

    Raises:
        InvalidInput: if the generator can't write any of what the plan wants.
        Exists: if ``out`` was not written by this.
        Mismatch: if the journal is of another generator.
    """

    def __init__(
        self,
        generator: TextGenerator,
        plan: AugmentPlan,
        tokenizer: Any,
        out: Path,
        *,
        resume: bool = True,
    ) -> None:
        if generator.skill != "instructions" and "tags" in plan.write:
            raise InvalidInput(
                f"{generator.name!r} follows no instructions: it writes no descriptions or tags",
                hint="use --generator URL --model NAME, or a --base that follows instructions",
            )
        self.plan, self.tokenizer = plan, tokenizer
        self.file = AugmentedFile(out, resume=resume)
        journal = journal_path(out)
        if not resume:
            journal.unlink(missing_ok=True)
        self.generator = (
            generator if isinstance(generator, Recorded) else Journaled(generator, journal)
        )
        self.dictation = Dictation(self.generator, plan.retries, plan.seed)
        self.notes: set[str] = set()

    def run(
        self,
        items: Iterable[Document | Rejection],
        on_step: Callable[[AugmentStep], None] | None = None,
    ) -> AugmentReport:
        """Write about each document; what was reported is durable.

        Raises:
            ModelUnavailable: if the generator refuses, or fails on several documents in a row.
        """
        began, total = time.perf_counter(), Coverage()
        counts = {"written": 0, "kept": 0, "failed": 0}
        failing = 0
        for item in items:
            message, name, own = "", item.name, Coverage()
            event: Literal["written", "kept", "failed"] = "failed"
            try:
                if isinstance(item, Rejection):
                    raise Rejected(item.message, code=item.code)
                event = self._document(item)
                own, failing = self.file.coverage(name), 0
            except Rejected as error:
                message = f"{error.code}: {error.message}"
            except ModelUnavailable as error:
                failing += 1
                if error.code == "endpoint_refused" or failing == GIVE_UP_AFTER:
                    raise
                message = f"{error.code}: {error.message}"
            if message:
                own.lacks.append(Lack(name, -1, "document", message))
            counts[event] += 1
            total.add(own)
            if on_step is not None:
                seconds = time.perf_counter() - began
                on_step(
                    AugmentStep(
                        event, name, sum(counts.values()), seconds, own.facts, own.pairs, message
                    )
                )
        self.file.finish()
        return AugmentReport(
            **counts,
            passages=total.passages,
            facts=total.facts,
            pairs=total.pairs,
            held_out=total.held_out,
            rewrites=total.rewrites,
            tagged=total.tagged,
            uncovered=tuple(total.uncovered),
            asked=getattr(self.generator, "asked", 0),
            retried=self.dictation.retried,
            skipped=dict(total.skipped),
            lacks=tuple(total.lacks),
            notes=tuple(sorted(self.notes)),
            generator=self.generator.name,
            seconds=time.perf_counter() - began,
        )

    def _document(self, document: Document) -> Literal["written", "kept"]:
        """Write a row, unless the file has the same already."""
        fingerprint = self.plan.fingerprint(self.generator)
        key = key_of(document, fingerprint)
        if self.file.keys.get(document.name) == key:
            return "kept"
        account = Account()
        fields, entries = self._write(document, account)
        made_by = {
            "key": key,
            "generator": self.generator.name,
            "generator_fingerprint": self.generator.fingerprint,
            "plan": fingerprint,
            "write": list(self.plan.write),
            "text_sha256": hashlib.sha256(document.text.encode()).hexdigest(),
            "skipped": dict(account.skipped),
            "lacks": [[lack.start, lack.step, lack.reason] for lack in account.lacks],
        }
        self.file.add(row_of(document, fields, entries, made_by))
        self.notes |= account.notes
        return "written"

    def _write(
        self, document: Document, account: Account
    ) -> tuple[dict[str, MetadataValue], list[dict[str, Any]]]:
        """The fields of a document, and the entries of its passages."""
        plan, dictation = self.plan, self.dictation
        pieces = [
            Piece(document.name, document.title, passage)
            for passage in chunk(document.text, self.tokenizer, plan.chunk)
        ]
        written = [PassageWriting() for _ in pieces]
        asking = self.generator.skill != "instructions"
        if "facts" in plan.write:
            if asking:
                ask_facts(pieces, written, plan, self.generator, account)
            else:
                write_facts(pieces, written, plan, dictation, account)
        if "prag" in plan.write:
            if asking:
                ask_prag(pieces, written, plan, self.generator, account)
            else:
                write_prag(pieces, written, plan, dictation, account)
        fields = write_tags(document, plan, dictation, account) if "tags" in plan.write else {}
        if set(plan.write) == {"tags"}:
            return fields, []
        return fields, [
            own.entry(piece.passage) for piece, own in zip(pieces, written, strict=True)
        ]


def journal_path(out: Path) -> Path:
    """Where the journal of an output lies."""
    return out.with_name(out.name + ".journal.jsonl")
