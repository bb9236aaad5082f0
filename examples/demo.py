"""Asks the example corpus a few questions in every mode, side by side, then scores all of them.

Run by ``make demo``, after ``adb init`` and ``adb ingest``:

    python examples/demo.py .adapterdb-demo
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapterdb import AdapterDB
from adapterdb.evaluation.metrics import squad_em, squad_f1

HERE = Path(__file__).parent
QUESTIONS = HERE / "questions.jsonl"
MODES = ("base", "rag", "adapter", "hybrid")
# shown in the table: six of one article, one that needs two, one that the corpus does not answer
SHOWN = ("ex-001", "ex-003", "ex-028", "ex-048", "ex-071", "ex-096", "ex-117", "ex-148")

CELL_CHARS = 60
WIDTH = 130  # of the table where there is no terminal


def read_questions() -> list[dict[str, Any]]:
    """The question records, in file order."""
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def shown(answer: Any) -> str:
    """An answer with its best source and milliseconds, as one cell."""
    text = answer.text if len(answer.text) <= CELL_CHARS else answer.text[:CELL_CHARS] + "..."
    source = f"\n[dim]{escape(answer.sources[0].document)}[/dim]" if answer.sources else ""
    return f"{escape(text) or '-'}{source}\n[dim]{answer.timings_ms['total']:.0f} ms[/dim]"


def main(home: str) -> None:
    """Print the table of chosen questions, then a line of scores for each mode."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    records = {record["id"]: record for record in read_questions()}
    table = Table("question", "accepted", *MODES, show_lines=True)
    with AdapterDB.open(home) as db:
        db.ask("Is anyone there?")  # loads the models, so that the times below are those of asking
        for record in (records[name] for name in SHOWN):
            cells = [shown(db.ask(record["question"], mode=mode)) for mode in MODES]
            accepted = record["answers"][0] if record["answers"] else "(not in the corpus)"
            table.add_row(escape(record["question"]), escape(accepted), *cells)
        console.print(table)
        scored = [r for r in records.values() if r["answerable"] and r["split"] == "report"]
        asked = [r["question"] for r in scored]
        console.print(f"{len(scored)} answerable questions of examples/questions.jsonl, each mode:")
        for mode in MODES:
            began = time.perf_counter()
            answers = db.ask_many(asked, mode=mode)
            seconds = time.perf_counter() - began
            pairs = [(a.text, r["answers"]) for a, r in zip(answers, scored, strict=True)]
            f1 = sum(squad_f1(*pair) for pair in pairs) / len(pairs)
            em = sum(squad_em(*pair) for pair in pairs) / len(pairs)
            each = 1e3 * seconds / len(pairs)
            console.print(
                f"  {mode:8} SQuAD F1 {100 * f1:5.1f}   exact match {100 * em:5.1f}"
                f"   {each:6.0f} ms a question   n = {len(pairs)}"
            )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("LANCE_LOG", "error")
    main(sys.argv[1] if len(sys.argv) > 1 else ".adapterdb-demo")
