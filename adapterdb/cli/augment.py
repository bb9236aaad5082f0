"""``adb augment``: have a model write about documents; convert rows of other formats."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterdb.cli.output import print_json, print_note, print_table, print_text, printable, shorten
from adapterdb.cli.settings import Settings, shared
from adapterdb.errors import InvalidInput

if TYPE_CHECKING:
    from adapterdb.ingest.augment.augmenter import AugmentReport, AugmentStep
    from adapterdb.ingest.augment.generator import TextGenerator

_FORMATS = ("rows", "tasks", "prag", "camels", "knowledge-update", "meteora")
_SHOWN = 10  # facts without pairs, and lacks, that are listed for people


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the rows go, for 'adb ingest'; a journal of all texts is kept beside it.",
)
@click.option(
    "--write",
    type=click.Choice(["facts", "prag", "tags"]),
    multiple=True,
    help="Facts with questions (default), a rewrite with questions, or a description with tags."
    " Repeatable.",
)
@click.option(
    "--generator",
    metavar="local|URL|FILE",
    default="local",
    help="What writes: the base model, an OpenAI-compatible endpoint, or the journal of an earlier"
    " run. Default: local.",
)
@click.option("--model", metavar="NAME", default="", help="Model at the endpoint.")
@click.option(
    "--key-variable",
    metavar="NAME",
    default="ADB_API_KEY",
    help="Environment variable that holds the endpoint's key. Default: ADB_API_KEY.",
)
@click.option(
    "--requests", type=click.IntRange(1, 256), default=8, metavar="N",
    help="Requests to the endpoint at once. Default: 8.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), default=120.0, metavar="SECONDS",
    help="Of one request. Default: 120.",
)  # fmt: skip
@click.option(
    "--base", metavar="MODEL", default="mini",
    help="Base model that the rows are for: it cuts the passages, and writes if --generator is"
    " local. Default: mini.",
)  # fmt: skip
@click.option(
    "--qa-per-fact", type=int, default=10, metavar="N", help="Pairs of a fact. Default: 10."
)
@click.option(
    "--held-out", type=int, default=2, metavar="N",
    help="Pairs of a fact that are never learned from. Default: 2.",
)  # fmt: skip
@click.option("--roles", type=int, default=3, metavar="N", help="Voices. Default: 3.")
@click.option(
    "--chunk-tokens", type=int, default=160, metavar="N", help="Tokens of a passage. Default: 160."
)
@click.option("--seed", type=int, default=0, metavar="N", help="Of all drawing. Default: 0.")
@click.option("--glob", metavar="PATTERN", help="Only files whose relative path matches.")
@click.option(
    "--resume/--no-resume", default=True, help="Keep what earlier runs wrote. Default: yes."
)
@click.option(
    "--from", "source",
    type=click.Choice(_FORMATS),
    help="Convert: read PATH in this format, and write nothing new.",
)  # fmt: skip
@click.option(
    "--as", "target", type=click.Choice(_FORMATS), help="Convert: write --to in this format."
)
@shared
def augment(
    settings: Settings,
    /,
    paths: tuple[str, ...],
    to: Path,
    source: str | None,
    target: str | None,
    **given: Any,
) -> None:
    """Have a model write about documents: what deltas are then made from.

    PATH is as for 'adb ingest'; no home is needed. Documents that are done are not done again.
    With --from or --as, rows are only converted between formats. Exits 1 if a document failed.

    Example:
      adb augment notes/ --to rows.jsonl --generator http://localhost:8000/v1 --model llama
      adb augment notes/ --to tagged.jsonl --write tags --write prag --base ./models/llama
      adb augment popqa.json --from prag --to rows.jsonl
      adb ingest rows.jsonl --recipe knowledge
    """
    if source or target:
        from adapterdb.ingest.augment.conversion import convert

        done = convert([Path(path) for path in paths], source or "rows", to, target or "rows")
        print_json(done) if settings.json else print_text(
            f"{done['records']} records as {done['format']} in {to}"
        )
        return
    report = _run(settings, paths, to, given)
    if settings.json:
        print_json({"event": "summary", **report.to_dict()})
    else:
        _print(report)
    if report.failed:
        click.get_current_context().exit(1)


def _run(
    settings: Settings, paths: tuple[str, ...], to: Path, given: dict[str, Any]
) -> AugmentReport:
    """Read, write, report."""
    from adapterdb.config import ChunkConfig
    from adapterdb.ingest.augment.augmenter import Augmenter
    from adapterdb.ingest.augment.plan import AugmentPlan
    from adapterdb.ingest.readers import read_documents

    plan = AugmentPlan(
        write=given["write"] or ("facts",),
        qa_per_fact=given["qa_per_fact"],
        held_out_per_fact=given["held_out"],
        roles=given["roles"],
        seed=given["seed"],
        chunk=ChunkConfig(tokens=given["chunk_tokens"]),
    )
    if any(path != "-" and Path(path).resolve() == to.resolve() for path in paths):
        raise InvalidInput(f"{str(to)!r} would be read and written at once")
    documents = read_documents(paths, glob=given["glob"], stdin=sys.stdin.buffer)
    generator, tokenizer = _generator(settings, given)
    augmenter = Augmenter(generator, plan, tokenizer, to, resume=given["resume"])

    def on_step(step: AugmentStep) -> None:
        if settings.json:
            print_json(step)
        elif not settings.quiet:
            what = step.message or f"{step.facts} facts, {step.pairs} pairs"
            print_note(f"{step.event} {printable(step.id, one_line=True)}: {what}")

    return augmenter.run(documents, on_step)


def _print(report: AugmentReport) -> None:
    """The report for people."""
    print_text(
        f"written {report.written}   kept {report.kept}   failed {report.failed}"
        f"   ({report.seconds:.1f} s, {report.generator})"
    )
    print_text(
        f"passages {report.passages}   facts {report.facts}   pairs {report.pairs}"
        f"   held out {report.held_out}   rewrites {report.rewrites}   tagged {report.tagged}"
    )
    print_text(
        f"facts without a pair {len(report.uncovered)}   asked again {report.retried}"
        f"   lacking {len(report.lacks)}"
    )
    for reason, count in sorted(report.skipped.items()):
        print_text(f"left out {count}: {reason}")
    if report.uncovered:
        print_table(
            ("document", "start", "fact without a pair"),
            [(name, start, shorten(fact)) for name, start, fact in report.uncovered[:_SHOWN]],
        )
    if report.lacks:
        print_table(
            ("document", "start", "lacking", "reason"),
            [(lack.document, lack.start, lack.step, lack.reason) for lack in report.lacks[:_SHOWN]],
        )
    for note in report.notes:
        print_note(f"note: {note}")


def _generator(settings: Settings, given: dict[str, Any]) -> tuple[TextGenerator, Any]:
    """What writes, and the tokenizer that passages are counted with."""
    from adapterdb.base_model import BaseModel, load_base_model, load_tokenizer
    from adapterdb.ingest.augment.choice import open_generator

    loaded: list[BaseModel] = []

    def load() -> BaseModel:
        base = load_base_model(given["base"], device=settings.device, dtype=settings.dtype)
        loaded.append(base)
        return base

    generator = open_generator(
        given["generator"],
        load,
        model=given["model"],
        key=os.environ.get(given["key_variable"], ""),
        threads=given["requests"],
        timeout_s=given["timeout"],
    )
    return generator, loaded[0].tokenizer if loaded else load_tokenizer(given["base"])
