"""``adb explain``: why answers that were stored in a file are as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import click

from adapterdb.cli.explanation import print_explanation
from adapterdb.cli.output import print_json, print_text
from adapterdb.cli.settings import Settings, shared
from adapterdb.engine.answer_record import answer_from
from adapterdb.errors import InvalidInput


@click.command()
@click.argument("file", type=click.File(encoding="utf-8"), metavar="ANSWER.json")
@shared
def explain(settings: Settings, file: IO[str]) -> None:
    """Explain answers that 'adb ask --json' wrote to a file, - for standard input.

    Prints the plan as a tree with what was expected and what it took, the mixture, what the gate
    did, and by how many nats each source made the answer likelier than without it. The home keeps
    nothing of answers; what has been deleted or forgotten since gets no share.

    Example:
      adb explain answer.json
      adb ask "Who kept the light?" --json | adb explain -
    """
    answers = [answer_from(data, where) for where, data in _answers(file)]
    with settings.open_to_ask() as db:
        for number, answer in enumerate(answers):
            explanation = db.explain(answer)
            if settings.json:
                print_json(explanation)
                continue
            print_text(("\n" if number else "") + explanation.question)
            print_explanation(explanation)


def _answers(file: IO[str]) -> Iterator[tuple[str, Any]]:
    """What to call each answer of a file, and its data: one document, a list, or lines of them."""
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file.name} is not UTF-8 text: {error}") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        numbered = ((n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip())
        named = ((f"{file.name} line {n}", line) for n, line in numbered)
        found = [(where, _line(line, where)) for where, line in named]
    else:
        every = data if isinstance(data, list) else [data]
        found = [(f"{file.name} entry {n}", one) for n, one in enumerate(every, 1)]
    if not found:
        raise InvalidInput(f"there is no answer in {file.name}")
    yield from found


def _line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not JSON: {error}", hint="give 'adb ask --json'") from error
