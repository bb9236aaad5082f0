"""An explanation for people: the plan as a tree, then tables of what acted and what it did."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from adapterdb.cli.output import PIPE_WIDTH, counted, print_note, print_table, printable

if TYPE_CHECKING:
    from rich.tree import Tree

    from adapterdb.engine.explain import Explanation, Node

UNKNOWN = "?"  # of an estimate that is not there yet


def print_explanation(explanation: Explanation) -> None:
    """Print why an answer is as it is."""
    _print_plan(explanation.plan)
    if explanation.mixture and explanation.attribution is None:
        click.echo()
        parts = [(p.weight, p.document, p.delta_id[:12]) for p in explanation.mixture]
        print_table(("weight", "document", "delta"), parts)
    if explanation.attribution is not None:
        _print_shares(explanation)
    if explanation.gates:
        click.echo()
        names = [delta_id[:12] for delta_id, _ in explanation.gates[0].weights]
        rows = [(use.layer, *(weight for _, weight in use.weights)) for use in explanation.gates]
        print_table(("layer", *names), rows)
    for note in explanation.notes:
        print_note(f"note: {note}")


def _print_plan(plan: Node) -> None:
    from rich.console import Console

    console = Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
        no_color=click.get_current_context().color is False,
        highlight=False,
    )
    console.print(_tree(plan))


def _tree(node: Node) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_line(node)))
    for child in node.children:
        tree.children.append(_tree(child))
    return tree


def _line(node: Node) -> str:
    """``name  detail  rows estimated -> actual  ms estimated -> actual``."""
    parts = [node.name]
    if node.detail:
        parts.append(printable(node.detail, one_line=True))
    for unit, expected, actual in (
        ("rows", node.rows_estimated, node.rows),
        ("ms", node.ms_estimated, node.ms),
    ):
        if actual is not None:
            parts.append(f"{unit} {_number(expected)} -> {_number(actual)}")
    return "  ".join(parts)


def _number(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _print_shares(explanation: Explanation) -> None:
    """What each source did for the answer's log-probability."""
    found = explanation.attribution
    assert found is not None
    weights = {part.delta_id: part.weight for part in explanation.mixture}

    def cell(value: float | None) -> Any:
        return "" if value is None else f"{value:+.3f}"

    click.echo()
    print_table(
        ("share", "nats", "of delta", "of text", "weight", "document", "delta"),
        [
            (cell(s.share), cell(s.nats), cell(s.delta_nats), cell(s.text_nats),
             weights.get(s.delta_id, 0.0), f"{s.document}@{s.version}", s.delta_id[:12])
            for s in found.sources
        ],
    )  # fmt: skip
    click.echo(
        f"log-probability of {counted(found.tokens, 'token')}: {found.logprob:.3f};"
        f" of the base model alone: {found.base_logprob:.3f}"
    )
