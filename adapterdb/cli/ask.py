"""``adb ask`` and ``adb search``: answers, and the passages they would lean on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterdb.answers import ASK_MODES, COMPOSITIONS, WEIGHTINGS, Answer, Dials, Generation
from adapterdb.cli.explanation import print_explanation
from adapterdb.cli.options import AS_OF, NAMESPACE, WHERE, K, parse_adapters
from adapterdb.cli.output import print_answer, print_json, print_table, printable, shorten
from adapterdb.cli.settings import Settings, shared
from adapterdb.errors import InvalidInput

if TYPE_CHECKING:
    from adapterdb.database import AdapterDB

STDIN = "-"
BATCH = 64  # questions answered before the first of them is printed

_HOW = (
    click.option(
        "--mode", type=click.Choice(ASK_MODES), default="hybrid",
        help="What answers: the base model alone, with text, with deltas, with both, or what is"
        " expected to do best ('adb train calibration'). Default: hybrid.",
    ),
    K,
    click.option(
        "--compose", type=click.Choice(COMPOSITIONS), default="cat",
        help="How hits become a mixture. Default: cat.",
    ),
    click.option(
        "--weights", type=click.Choice(WEIGHTINGS),
        help="How hits are weighed: by similarity, equally, or 1 each. Default: as --compose says.",
    ),
    click.option(
        "--strength", type=float, default=1.0, metavar="X",
        help="Multiplies every weight, 0 to 100. Default: 1.",
    ),
    click.option(
        "--density", type=float, metavar="X",
        help="Share of entries that ties, dare and magnitude_prune keep, up to 1.",
    ),
    click.option(
        "--dare-seed", type=int, default=0, metavar="N", help="Of what dare drops."
    ),
    click.option(
        "--top-k", type=int, metavar="N", help="Deltas a token goes through in arrow and gate."
    ),
    click.option(
        "--gate-temperature", type=float, metavar="T",
        help="Of arrow and gate; higher mixes more evenly.",
    ),
    NAMESPACE,
    WHERE,
    AS_OF,
    click.option(
        "--min-similarity", type=float, metavar="X", help="Use no hits under this cosine, -1 to 1."
    ),
    click.option(
        "--adapter", "adapters", multiple=True, metavar="NAME[=W]",
        help="Let this document's or delta's weights act instead of searched ones. Repeatable.",
    ),
    click.option("--max-tokens", type=int, metavar="N", help="Longest answer, 1 to 4096."),
    click.option("--temperature", type=float, default=0.0, metavar="T", help="0 (default) to 10."),
    click.option(
        "--beams", type=int, metavar="N",
        help="Of beam search, 1 (greedy) to 16. Default: the model's own where no text is shown.",
    ),
    click.option(
        "--length-penalty", type=float, metavar="X",
        help="Of beam search, -10 to 10: higher favours longer answers. Default: the model's own.",
    ),
    click.option("--top-p", type=float, default=1.0, metavar="P", help="Nucleus mass up to 1."),
    click.option(
        "--seed", type=int, default=0, metavar="N", envvar=["ADB_ASK_SEED", "ADB_SEED"],
        help="Of the sampling.  [env: ADB_SEED]",
    ),
)  # fmt: skip


def _how(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how questions are answered."""
    return reduce(lambda made, option: option(made), reversed(_HOW), function)


@click.command()
@click.argument("question", required=False)
@click.option(
    "--questions",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Ask every question of a JSON Lines file with a field 'question'.",
)
@_how
@click.option("--stream/--no-stream", default=None, help="Default: stream on a terminal.")
@click.option("--sources/--no-sources", default=True, help="Show what the answer leaned on.")
@click.option(
    "--explain",
    "explained",
    is_flag=True,
    help="Then show the plan, and what each source did for the answer.",
)
@shared
def ask(
    settings: Settings,
    /,
    question: str | None,
    questions: str | None,
    stream: bool | None,
    sources: bool,
    explained: bool,
    **how: Any,
) -> None:
    """Answer a question from the stored documents.

    QUESTION - reads questions from standard input, one on each line. With --json, one JSON
    document for a question, and one line for each of several.

    Example:
      adb ask "Who opened the lighthouse?" --mode adapter -k 3
      adb ask "What changed?" --where "year >= 2020" --json
      adb ask "Who opened the lighthouse?" --mode auto --explain
    """
    if (question is None) == (questions is None):
        raise click.UsageError("give a QUESTION or --questions FILE")
    options, asked = _options(how), list(_questions(question, questions))
    if stream is None:
        stream = sys.stdout.isatty()
    with settings.open_to_ask() as db:
        if stream and not settings.json and len(asked) == 1:
            answer = _streamed(db, asked[0], options)
            print_answer(answer, text=False, sources=sources and not explained)
            if explained:
                _explain(settings, db, answer)
            return
        for first in range(0, len(asked), BATCH):
            for answer in db.ask_many(asked[first : first + BATCH], **options):
                if not settings.json:
                    print_answer(answer, text=True, sources=sources and not explained)
                elif not explained:
                    print_json(answer)
                if explained:
                    _explain(settings, db, answer)


def _explain(settings: Settings, db: AdapterDB, answer: Answer) -> None:
    """Print why an answer is as it is; in JSON together with the answer."""
    explanation = db.explain(answer)
    if settings.json:
        print_json({"answer": answer.to_dict(), "explanation": explanation.to_dict()})
    else:
        click.echo()
        print_explanation(explanation)


def _options(how: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``AdapterDB.ask_many`` out of those of the command."""
    generation = Generation(**{entry.name: how.pop(entry.name) for entry in fields(Generation)})
    mixture = parse_adapters(how.pop("adapters"))
    dials = Dials(
        density=how.pop("density"),
        seed=how.pop("dare_seed"),
        top_k=how.pop("top_k"),
        gate_temperature=how.pop("gate_temperature"),
    )
    return {**how, "generation": generation, "mixture": mixture, "dials": dials}


def _questions(question: str | None, file: str | None) -> Iterator[str]:
    """The question, or those on standard input, or those of a file; InvalidInput if none."""
    if file is not None:
        lines = Path(file).read_text(encoding="utf-8", errors="strict").splitlines()
        found = [
            _field(line, f"{file} line {n}") for n, line in enumerate(lines, 1) if line.strip()
        ]
    elif question == STDIN:
        found = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    else:
        found = [question or ""]
    if not found:
        raise InvalidInput(f"there is no question in {file or 'standard input'}")
    yield from found


def _field(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InvalidInput(f"{where} is no object with a text 'question'")
    return str(row["question"])


def _streamed(db: AdapterDB, question: str, options: dict[str, Any]) -> Answer:
    """Print one answer as it comes; returns it whole."""
    answer = None
    for token in db.stream(question, **options):
        click.echo(printable(token.text), nl=False)
        answer = token.answer or answer
    click.echo()
    assert answer is not None  # the last token carries it
    return answer


@click.command()
@click.argument("question")
@click.option("-k", "k", type=int, default=3, metavar="N", help="Passages, 1 to 100. Default: 3.")
@WHERE
@AS_OF
@NAMESPACE
@click.option(
    "--kind", type=click.Choice(["hybrid", "vector", "text"]), default="hybrid",
    help="By meaning, by words, or both. Default: hybrid.",
)  # fmt: skip
@shared
def search(settings: Settings, /, question: str, **options: Any) -> None:
    """Find the passages that fit a question best.

    Example:
      adb search "opening of the railway" -k 5
    """
    with settings.open_to_ask() as db:
        hits = db.search(question, **options)
    if settings.json:
        print_json(hits)
        return
    print_table(
        ("rank", "similarity", "document", "span", "delta", "text"),
        [
            (h.rank, h.similarity, f"{h.document}@{h.version}", f"{h.start}-{h.end}",
             h.delta_id[:12], shorten(h.text))
            for h in hits
        ],
    )  # fmt: skip
