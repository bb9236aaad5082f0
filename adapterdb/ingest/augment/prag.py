"""PRAG's augmentation: one paraphrase and a few questions of a passage (arXiv 2501.15915, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from adapterdb.ingest.augment import instructions
from adapterdb.ingest.augment.dictation import Dictation
from adapterdb.ingest.augment.generator import Sampling
from adapterdb.ingest.augment.parse import json_object, same_words
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.written import Account, PassageWriting, Piece


class _Sheet(NamedTuple):
    rewrite: str
    qa: list[tuple[str, str]]
    full_answers: list[str]


def write_prag(
    pieces: Sequence[Piece],
    written: Sequence[PassageWriting],
    plan: AugmentPlan,
    dictation: Dictation,
    account: Account,
) -> None:
    """Fill in rewrite and questions of the passages of one document: both, or neither."""

    def use(i: int, text: str) -> _Sheet | None:
        return _sheet(json_object(text), pieces[i].passage.text, plan.prag_pairs)

    prompts = [
        instructions.PRAG.format(
            title=piece.title or "(none)", text=piece.passage.text, count=plan.prag_pairs
        )
        for piece in pieces
    ]
    sampling = Sampling(1024, temperature=0.7)
    found = dictation.ask(prompts, use, sampling, retries=plan.prag_retries)
    for piece, own, sheet in zip(pieces, written, found, strict=True):
        if sheet is None:
            account.lack(
                piece, "rewrite", f"no JSON object with a rewrite and {plan.prag_pairs} questions"
            )
        else:
            own.rewrite, own.qa, own.full_answers = sheet


def _sheet(data: dict[str, Any] | None, text: str, wanted: int) -> _Sheet | None:
    """What was asked for, whole; None if anything is missing, or the rewrite is the text."""
    if data is None or not isinstance(data.get("qa"), list):
        return None
    rewrite = _line(data.get("rewrite"))
    sheet = _Sheet(rewrite, [], [])
    for row in data["qa"]:
        if isinstance(row, dict):
            question, answer = _line(row.get("question")), _line(row.get("answer"))
            if question and answer and len(sheet.qa) < wanted:
                sheet.qa.append((question, answer))
                sheet.full_answers.append(_line(row.get("full_answer")) or answer)
    said_anew = rewrite and same_words(rewrite) != same_words(text)
    return sheet if said_anew and len(sheet.qa) == wanted else None


def _line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
