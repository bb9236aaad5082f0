"""``adb train``: what a home shares is learned from questions or texts, and kept as a version."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterdb.answers import COMPOSITIONS
from adapterdb.cli.options import NAMESPACE, K
from adapterdb.cli.output import print_json, print_note, print_table, print_text
from adapterdb.cli.settings import Settings, shared, with_example

if TYPE_CHECKING:
    from adapterdb.store.shared import SharedPart
    from adapterdb.training.schedule import Progress

QUESTIONS = click.argument("questions", metavar="QUESTIONS")
SOURCES = click.argument("sources", metavar="PATH...", nargs=-1, required=True)
NAME = click.option("--name", required=True, help="Of the document it is stored under.")
HELD_OUT = click.option(
    "--held-out",
    metavar="FILE",
    help="Questions the best step is chosen by. Default: 5 % of the passages are set aside.",
)
_RUN = (
    click.option("--recipe", metavar="NAME|FILE", help="See 'adb recipes'."),
    click.option("--minutes", type=float, metavar="X", help="Length of the run."),
    click.option("--steps", "max_steps", type=int, metavar="N", help="Length of the run."),
    click.option("--seed", type=int, metavar="N", help="Of every draw. Default: 0."),
)
CHECKPOINT = click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Save the run there, and take it up from there.",
)
SPLIT = click.option(
    "--split",
    metavar="NAME",
    help="Only questions of this part (train, test, ...); where they name none, a fifth is test.",
)


def running(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a training run."""
    return reduce(lambda made, option: option(made), reversed(_RUN), function)


class _InOrder(click.Group):
    """A group whose commands are listed in the order they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in that order."""
        return list(self.commands)


@click.group(cls=_InOrder)
@with_example
def train() -> None:
    """Train what a home shares: starts of deltas, token weighers, one delta of many texts.

    QUESTIONS is JSON Lines, plain or .gz, one object a line with question, answers, passages
    (each with title and text), and supporting: the ids of the passages that answer it. What is
    trained is kept as a new version; 'adb train parts' lists them.

    Example:
      adb train meta-init questions.jsonl --minutes 30
      adb train parts
    """


@train.command("meta-init")
@QUESTIONS
@HELD_OUT
@running
@click.option("--go-on", is_flag=True, help="Begin from the home's present start, not afresh.")
@CHECKPOINT
@shared
def meta_init(settings: Settings, /, questions: str, **given: Any) -> None:
    """Learn the start and the step sizes of gradient deltas (Meta-PG, ReGrad).

    Afterwards 'adb ingest' makes documents anew from the new start; deltas that are stored go on
    acting from the one they were made at.

    Example:
      adb train meta-init questions.jsonl --held-out dev.jsonl --checkpoint run.safetensors
    """
    with settings.open() as db:
        part = db.trainer.meta_init(questions, **_given(given), on_progress=_Reporter(settings))
    _print_part(settings, part)


@train.command()
@QUESTIONS
@HELD_OUT
@SPLIT
@running
@click.option("--name", default="", help="Store it as a document, too, for --adapter NAME.")
@NAMESPACE
@shared
def ft(settings: Settings, /, questions: str, **given: Any) -> None:
    """Tune one LoRA to the form of a task: the start of recipes prag-warm and ftsimada.

    Example:
      adb train ft questions.jsonl --name ft
      adb ask "Who kept the light?" --mode adapter --adapter ft
    """
    with settings.open() as db:
        part = db.trainer.ft(questions, **_given(given), on_progress=_Reporter(settings))
    _print_part(settings, part)


@train.command()
@QUESTIONS
@click.option(
    "--task", "tasks", multiple=True, metavar="NAME", help="Only this task; may be repeated."
)
@HELD_OUT
@SPLIT
@running
@NAMESPACE
@shared
def experts(settings: Settings, /, questions: str, **given: Any) -> None:
    """Tune one delta to each task of a file: what 'adb train gate' learns to choose among.

    Every question says its "task"; the delta is that of a document of the same name.

    Example:
      adb train experts tasks.jsonl --split train
    """
    with settings.open() as db:
        made = db.trainer.experts(questions, **_given(given), on_progress=_Reporter(settings))
    for delta in made:
        if settings.json:
            print_json(delta)
        else:
            print_text(f"stored as {delta.document}: delta {delta.id}")


@train.command()
@SOURCES
@NAME
@NAMESPACE
@running
@shared
def dapt(settings: Settings, /, sources: tuple[str, ...], name: str, **given: Any) -> None:
    """Continue pre-training: one delta of all texts, the baseline of one delta for each.

    Example:
      adb train dapt corpus/ --name everything
    """
    with settings.open() as db:
        delta = db.trainer.dapt(sources, name, **_given(given), on_progress=_Reporter(settings))
    print_json(delta) if settings.json else print_text(f"stored as {name}: delta {delta.id}")


@train.command("knowledge-update")
@SOURCES
@NAME
@NAMESPACE
@running
@shared
def knowledge_update(
    settings: Settings, /, sources: tuple[str, ...], name: str, **given: Any
) -> None:
    """Tune one delta to the questions of all facts (KnowledgeUpdate).

    PATH is what 'adb augment --write facts' wrote. Recipe 'knowledge' of 'adb ingest' makes a
    delta for each passage of its own facts instead.

    Example:
      adb train knowledge-update rows.jsonl --name news
    """
    with settings.open() as db:
        delta = db.trainer.knowledge_update(
            sources, name, **_given(given), on_progress=_Reporter(settings)
        )
    print_json(delta) if settings.json else print_text(f"stored as {name}: delta {delta.id}")


@train.command()
@QUESTIONS
@HELD_OUT
@running
@CHECKPOINT
@shared
def camels(settings: Settings, /, questions: str, **given: Any) -> None:
    """Learn how much each token of a passage should count (CaMeLS).

    Example:
      adb train camels questions.jsonl --minutes 30
      adb ingest notes/ --recipe rg --weighting camels
    """
    with settings.open() as db:
        part = db.trainer.camels(questions, **_given(given), on_progress=_Reporter(settings))
    _print_part(settings, part)


@train.command()
@QUESTIONS
@click.option(
    "--delta", "deltas", multiple=True, metavar="NAME",
    help="Only this document and the questions of its task; may be repeated.",
)  # fmt: skip
@HELD_OUT
@SPLIT
@running
@click.option(
    "--train-deltas", is_flag=True, default=None,
    help="Train the deltas, too; they are stored as new versions of their documents.",
)  # fmt: skip
@click.option(
    "--turns", type=int, metavar="N",
    help="Learn from texts of up to N questions of several tasks, for prompts that hold several.",
)  # fmt: skip
@NAMESPACE
@CHECKPOINT
@shared
def gate(settings: Settings, /, questions: str, **given: Any) -> None:
    """Learn which delta each token should go through (MeteoRA), for --compose gate.

    Every question says in "task" the name of the document that holds its task's delta; prompt and
    response are read like question and answer. A delta that is stored later takes part by its
    prototype.

    Example:
      adb train experts tasks.jsonl
      adb train gate tasks.jsonl
      adb ask "Is this a joke?" --mode adapter --compose gate
    """
    with settings.open() as db:
        part = db.trainer.gate(questions, **_given(given), on_progress=_Reporter(settings))
    _print_part(settings, part)


@train.command()
@QUESTIONS
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT")
@click.option("-n", "n", type=int, default=3, metavar="N", help="Questions in one. Default: 3.")
@click.option("--count", type=int, default=200, metavar="N", help="How many. Default: 200.")
@click.option("--shots", type=int, default=0, metavar="N", help="Answered examples before each.")
@click.option("--longest", type=int, metavar="CHARS", help="No prompt gets longer.")
@SPLIT
@click.option("--seed", type=int, default=0, metavar="N", help="Of every draw. Default: 0.")
@shared
def composite(settings: Settings, /, questions: str, out: Path, **given: Any) -> None:
    """Write composite questions: n of n tasks in one prompt, to be answered in order.

    QUESTIONS name their tasks, as for 'adb train gate'. OUT is JSON Lines with the whole prompt as
    question, the numbered answers, and every part with its own. Needs no home.

    Example:
      adb train composite tasks.jsonl composite-5.jsonl -n 5 --split test
    """
    from adapterdb.training.gate.composite import write_composites

    made = write_composites(Path(questions), out, **_given(given))
    if settings.json:
        print_json({"path": str(out), "composites": made})
    else:
        print_text(f"wrote {made} composite questions to {out}")


@train.command()
@SOURCES
@shared
def tfidf(settings: Settings, sources: tuple[str, ...]) -> None:
    """Count how rare tokens are in a corpus, for --weighting tfidf.

    Example:
      adb train tfidf corpus/
    """
    with settings.open() as db:
        part = db.trainer.tfidf(sources)
    _print_part(settings, part)


@train.command()
@QUESTIONS
@K
@click.option(
    "--compose",
    type=click.Choice(COMPOSITIONS),
    default="cat",
    help="How hits become a mixture. Default: cat.",
)
@NAMESPACE
@click.option("--limit", type=int, metavar="N", help="Only the first N questions.")
@click.option(
    "--tolerance",
    type=float,
    metavar="X",
    help="Expected F1 given up for a cheaper mode, 0 to 1. Default: 0.02.",
)
@click.option("--seed", type=int, metavar="N", help="Of every draw. Default: 0.")
@shared
def calibration(settings: Settings, /, questions: str, **given: Any) -> None:
    """Learn how well each mode answers which questions, for --mode auto.

    Asks every question in every mode and compares the answers with the accepted ones. QUESTIONS
    should be about stored documents, and like those that will be asked; 100 are a good start.

    Example:
      adb train calibration questions.jsonl --limit 300
      adb ask "Who kept the light?" --mode auto
    """
    with settings.open() as db:
        part = db.trainer.calibration(questions, **_given(given), on_progress=_counting(settings))
    if not settings.json:
        f1 = part.facts["f1"]
        print_text("cross-validated F1: " + ", ".join(f"{m} {f1[m]:.3f}" for m in f1))
    _print_part(settings, part)


@train.command()
@QUESTIONS
@click.argument("folder", metavar="DIR")
@HELD_OUT
@running
@shared
def base(settings: Settings, /, questions: str, folder: str, **given: Any) -> None:
    """Tune all weights of the base model to questions, and write a model of its own.

    Example:
      adb train base questions.jsonl models/tuned
      adb init tuned.adb --base models/tuned
    """
    with settings.open() as db:
        made = db.trainer.base(questions, folder, **_given(given), on_progress=_Reporter(settings))
    print_json({"path": str(made)}) if settings.json else print_text(f"wrote {made}")


@train.command()
@shared
def parts(settings: Settings) -> None:
    """List the shared parts of the home, and how they were made.

    Example:
      adb train parts
    """
    with settings.open(read_only=True) as db:
        found = db.trainer.parts()
    if settings.json:
        print_json(found)
        return
    print_table(
        ("part", "made", "fingerprint", "from"),
        [(p.name, p.made_at, p.fingerprint[:12], str(p.facts.get("name", ""))) for p in found],
    )


@train.command()
@click.argument("part", metavar="PART")
@shared
def use(settings: Settings, part: str) -> None:
    """Make an earlier part the newest of its kind again.

    PART is a name that 'adb train parts' prints, or 'shipped': the meta-init that came with the
    base model. What is ingested from now on is made from it.

    Example:
      adb train use meta-init@1
      adb train use shipped
    """
    with settings.open() as db:
        kept = db.trainer.use(part)
    _print_part(settings, kept)


class _Reporter:
    """Says how a run goes on: JSON lines, or a line of text at each evaluation."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, progress: Progress) -> None:
        if progress.held_out is None:
            return
        if self._settings.json:
            print_json({"event": "evaluated", **vars(progress)})
        elif not self._settings.quiet:
            measures = ", ".join(f"{name} {value:.4g}" for name, value in progress.held_out.items())
            print_note(f"step {progress.step} ({progress.share:.0%}): {measures}")
            sys.stderr.flush()


def _counting(settings: Settings) -> Callable[[int, int], None]:
    """Says how many answers there are."""

    def say(done: int, total: int) -> None:
        if settings.json:
            print_json({"event": "answered", "answers": done, "of": total})
        elif not settings.quiet:
            print_note(f"{done:,} of {total:,} answers")
            sys.stderr.flush()

    return say


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options that were written; the rest keeps its default."""
    return {name: value for name, value in options.items() if value is not None}


def _print_part(settings: Settings, part: SharedPart) -> None:
    if settings.json:
        print_json(part)
    else:
        print_text(f"kept {part.name}, fingerprint {part.fingerprint[:12]}")
