"""``Trainer``: what a home shares is trained here: starts, token weighers, one delta of many texts.

Each method reads what it learns from, trains under the model's lock (questions wait meanwhile), and
keeps the result durably. Reached as ``AdapterDB.trainer``; owns no numbers: those are in presets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapterdb.answers import Composition, check_question
from adapterdb.engine.calibrating import TOLERANCE, Question, calibrate
from adapterdb.engine.calibration import KIND as CALIBRATION
from adapterdb.engine.decode import greedy_answers
from adapterdb.engine.plan import AskOptions
from adapterdb.errors import InvalidInput
from adapterdb.evaluation.metrics import squad_f1
from adapterdb.exchange import put_row
from adapterdb.experts import keep_trained, stored_experts
from adapterdb.home import Home
from adapterdb.ingest.chunking import chunk
from adapterdb.ingest.readers import read_all_documents
from adapterdb.records import Delta, Document
from adapterdb.store.shared import SharedPart
from adapterdb.training.base_tuning import tune_base
from adapterdb.training.camels.run import CamelsSettings, train_weighter
from adapterdb.training.finetune import (
    Finetuned,
    FinetuneSettings,
    finetune,
    pair_sequences,
    passage_sequences,
    sequences_to_learn,
)
from adapterdb.training.gate.bank import KIND as GATE
from adapterdb.training.gate.run import GateSettings, examples_of, train_gate
from adapterdb.training.meta.controls import Answering
from adapterdb.training.meta.objective import MetaInitSettings
from adapterdb.training.meta.run import train_meta_init
from adapterdb.training.objective import TokenSequence
from adapterdb.training.presets import changed_preset
from adapterdb.training.start import Start, base_weight
from adapterdb.training.tasks import Task, read_sets, read_tasks
from adapterdb.training.weights.tfidf import fit_tfidf
from adapterdb.training.weights.weighting import Camels

if TYPE_CHECKING:
    from adapterdb.training.schedule import Progress

SHIPPED = "shipped"
Listener = Callable[["Progress"], None]
Paths = Sequence[str | Path]


class Trainer:
    """Training for one open home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def parts(self) -> list[SharedPart]:
        """Every shared part the home keeps, by kind and version."""
        return self._home.shared.parts()

    def use(self, name: str) -> SharedPart:
        """Make an earlier part the newest of its kind again, as a new version.

        Args:
            name: ``kind@version``, or ``shipped``: the meta-init of the base model.

        Raises:
            NotFound: if there is none of that name.
        """
        home = self._home
        if name == SHIPPED:
            return self._kept("meta-init", home.starts.shipped(), {"name": SHIPPED})
        return home.shared.again(name)

    def _kept(self, kind: str, start: Start, facts: dict[str, Any]) -> SharedPart:
        part: SharedPart = self._home.starts.keep(kind, start, facts)
        return part

    def meta_init(
        self,
        questions: str | Path,
        *,
        recipe: str = "meta-mini",
        held_out: str | Path | None = None,
        go_on: bool = False,
        checkpoint: Path | None = None,
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> SharedPart:
        """Train theta* and alpha for gradient deltas on questions with passages (Meta-PG, ReGrad).

        Recipes whose start is ``meta-init`` begin from it from now on, so documents ingested again
        are made anew; deltas that are stored go on acting from the start they were made at.

        Args:
            questions: JSON Lines, see ``training.tasks``.
            recipe: preset of kind ``meta-init``, or a path.
            held_out: questions the best step is chosen by; None sets 5 % of the passages aside.
            go_on: begin from the home's present start instead of a fresh one.
            checkpoint: file the run is saved to, and taken up from where it is there.
            changes: fields of ``MetaInitSettings`` (``minutes``, ``max_steps``, ``seed``, ...).
        """
        settings = changed_preset(MetaInitSettings, "meta-init", recipe, changes)
        learned, aside = read_sets(questions, held_out, settings.seed)
        home = self._home
        start = home.starts.of_recipe(home.recipe_for("gradient")) if go_on else None
        with self._training():
            made = train_meta_init(
                home.runtime.adapted, home.base.encoder, learned, aside, settings,
                start=start, answering=self._answering(), checkpoint=checkpoint,
                on_progress=on_progress,
            )  # fmt: skip
        facts = {**made.facts, "curve": list(made.curve)}
        return self._kept("meta-init", made.start, facts)

    def ft(
        self,
        questions: str | Path,
        *,
        recipe: str = "ft",
        held_out: str | Path | None = None,
        split: str | None = None,
        name: str = "",
        namespace: str = "default",
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> SharedPart:
        """Tune one LoRA to a task: the start of ``prag-warm`` and ``ftsimada``, and a control.

        Args:
            split: only questions of this part.
            name: of a document to store it under as well, so that ``ask`` can name it.
            others: as for ``meta_init``; ``changes`` are fields of ``FinetuneSettings``.
        """
        settings = changed_preset(FinetuneSettings, "finetune", recipe, changes)
        sets = read_sets(questions, held_out, settings.seed, with_passages=False, split=split)
        made = self._tuned(sets, settings, on_progress)
        facts = {"name": settings.name, "best_step": made.best_step, "curve": list(made.curve)}
        part = self._kept("ft", Start(made.row, torch.zeros_like(made.row)), facts)
        if name:
            self._store(made, name, namespace, _told(sets[0]), "ft")
        return part

    def experts(
        self,
        questions: str | Path,
        *,
        tasks: Sequence[str] = (),
        recipe: str = "ft",
        held_out: str | Path | None = None,
        split: str | None = None,
        namespace: str = "default",
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> list[Delta]:
        """Tune one delta to each task: what a ``gate`` learns to choose among.

        Each is the delta of a document named after its task, and goes when that one goes.

        Args:
            questions: JSON Lines; every question names its ``task``.
            tasks: only these; none: all that are named.
            others: as for ``ft``.

        Raises:
            InvalidInput: if no question names a task, or none names one of ``tasks``.
        """
        settings = changed_preset(FinetuneSettings, "finetune", recipe, changes)
        how = {"with_passages": False, "split": split}
        found = read_tasks(Path(questions), with_passages=False, split=split)
        names = list(tasks) or list(dict.fromkeys(task.task for task in found if task.task))
        if not names:
            raise InvalidInput(f"no question in {questions} names its task")
        made = []
        for name in names:
            sets = read_sets(questions, held_out, settings.seed, task=name, **how)
            tuned = self._tuned(sets, settings, on_progress)
            made.append(self._store(tuned, name, namespace, _told(sets[0]), "ft"))
        return made

    def dapt(
        self,
        sources: Paths,
        name: str,
        *,
        recipe: str = "dapt",
        namespace: str = "default",
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> Delta:
        """Continued pre-training: one delta of all passages of ``sources``, stored as ``name``.

        Args:
            sources: files and folders, as for ``ingest``.
            changes: fields of ``FinetuneSettings``.
        """
        settings = changed_preset(FinetuneSettings, "finetune", recipe, changes)
        home = self._home
        passages = [
            (document.title, passage.text)
            for document in self._documents(sources)
            for passage in chunk(document.text, home.base.tokenizer, home.config.chunk)
        ]
        sequences = passage_sequences(passages, home.base.encoder)
        made = self._finetuned([sequences, []], settings, on_progress)
        text = f"Continued pre-training on {len(sequences)} passages."
        return self._store(made, name, namespace, text, "dapt")

    def knowledge_update(
        self,
        sources: Paths,
        name: str,
        *,
        recipe: str = "knowledge-update",
        namespace: str = "default",
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> Delta:
        """KnowledgeUpdate's monolithic SFT: one delta of all facts' Q&A, stored as ``name``.

        The best step is chosen by the facts' held-out pairs, which are never learned from.

        Args:
            sources: rows that ``adb augment --write facts`` has written.
        """
        settings = changed_preset(FinetuneSettings, "finetune", recipe, changes)
        facts = [
            fact
            for document in self._documents(sources)
            for entry in document.augmented
            for fact in entry.facts
        ]
        encoder, mask = self._home.base.encoder, settings.mask
        learned = [pair for fact in facts for pair in fact.qa]
        aside = [pair for fact in facts for pair in fact.held_out]
        sets = [pair_sequences(pairs, encoder, mask=mask) for pairs in (learned, aside)]
        if not sets[0]:
            raise InvalidInput(
                "these documents hold no facts with questions",
                hint="'adb augment --write facts' writes them",
            )
        made = self._finetuned(sets, settings, on_progress)
        text = f"Tuned to {len(sets[0])} question-answer pairs of {len(facts)} facts."
        return self._store(made, name, namespace, text, "knowledge-update")

    def camels(
        self,
        questions: str | Path,
        *,
        recipe: str = "camels-mini",
        held_out: str | Path | None = None,
        checkpoint: Path | None = None,
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> SharedPart:
        """Train the network that weighs tokens (CaMeLS); ``weighting = "camels"`` uses it.

        Args: as for ``meta_init``; ``changes`` are fields of ``CamelsSettings``.
        """
        settings = changed_preset(CamelsSettings, "camels", recipe, changes)
        learned, aside = read_sets(questions, held_out, settings.seed)
        home = self._home
        start = home.starts.of_recipe(home.recipe)
        with self._training(exact=True):
            made = train_weighter(
                home.runtime.adapted, home.base, learned, aside, settings,
                start=start, checkpoint=checkpoint, on_progress=on_progress,
            )  # fmt: skip
        # trained on steps of the start's own sizes times inner_lr: deltas are to move as far
        gain = settings.inner_lr if settings.own_steps else 1.0
        weigher = Camels(home.base.encoder, made.weighter, gain)
        facts = {**made.facts, "curve": list(made.curve), "gain": gain}
        return home.shared.keep(
            "camels", weigher.to_tensors(), fingerprint=weigher.fingerprint, facts=facts
        )

    def gate(
        self,
        questions: str | Path,
        *,
        deltas: Sequence[str] = (),
        recipe: str = "gate-mini",
        held_out: str | Path | None = None,
        split: str | None = None,
        namespace: str = "default",
        checkpoint: Path | None = None,
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> SharedPart:
        """Train a gate that sends each token to the deltas of its task (MeteoRA).

        ``composition = "gate"`` uses it. Deltas that learn too become new versions of theirs.

        Args:
            questions: JSON Lines; ``task`` of a question names the document of its delta.
            deltas: only these documents, and the questions of these tasks; none: all tasks there.
            split: only questions of this part.
            namespace: of the documents.
            others: as for ``meta_init``; ``changes`` are fields of ``GateSettings``.
        """
        settings = changed_preset(GateSettings, "gate", recipe, changes)
        given = read_sets(questions, held_out, settings.seed, with_passages=False, split=split)
        names, learned, aside = examples_of(*given, deltas)
        home = self._home
        experts = stored_experts(home.store, home.starts.of_fingerprint, names, namespace)
        with self._training():
            made = train_gate(
                home.runtime.adapted, home.base.encoder, experts, learned, aside, settings,
                checkpoint=checkpoint, on_progress=on_progress,
            )  # fmt: skip
        bank = made.bank
        if settings.train_deltas:
            place = home.store, home.embedder, home.base
            bank = keep_trained(*place, bank, names, made.rows, namespace)
        facts = {**made.facts, "namespace": namespace, "curve": list(made.curve)}
        facts["deltas"] = list(bank.ids)  # not by name: documents may be forgotten
        return home.shared.keep(GATE, bank.to_tensors(), fingerprint=bank.fingerprint, facts=facts)

    def tfidf(self, sources: Paths) -> SharedPart:
        """Count how rare tokens are in ``sources``; ``weighting = "tfidf"`` uses it."""
        home = self._home
        texts = [f"{document.title} {document.text}" for document in self._documents(sources)]
        table = fit_tfidf(texts, home.base.encoder)
        return home.shared.keep(
            "tfidf", table.to_tensors(), fingerprint=table.fingerprint, facts={"texts": len(texts)}
        )

    def calibration(
        self,
        questions: str | Path,
        *,
        k: int | None = None,
        compose: Composition = "cat",
        namespace: str = "default",
        limit: int | None = None,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> SharedPart:
        """Learn how well each mode answers which questions; mode ``auto`` chooses by it.

        Args:
            questions: JSON Lines with question and answers, about stored documents.
            k, compose, namespace: as they will be asked.
            limit: only the first so many.
            tolerance: expected F1 given up for a cheaper mode, 0 to 1.
            on_progress: called with answers given, and to be given in all.
        """
        home = self._home
        home.store.check_writable()
        tasks = read_tasks(Path(questions), limit, with_passages=False)
        for task in tasks:
            try:
                check_question(task.question)
            except InvalidInput as error:
                raise InvalidInput(f"{questions}: question {task.id!r}: {error}") from error
        made = calibrate(
            home.answerer,
            [Question(task.question, task.answers) for task in tasks],
            squad_f1,
            AskOptions(k=k, composition=compose, namespace=namespace),
            tolerance=tolerance,
            seed=seed,
            on_progress=on_progress,
        )
        known = made.calibration
        return home.shared.keep(
            CALIBRATION, known.to_tensors(), fingerprint=known.fingerprint, facts=made.facts
        )

    def base(
        self,
        questions: str | Path,
        folder: str | Path,
        *,
        recipe: str = "qa-base",
        held_out: str | Path | None = None,
        on_progress: Listener | None = None,
        **changes: Any,
    ) -> Path:
        """Tune all weights of the base model to questions and write a model folder (CaMeLS).

        The home's own base model stays as it is; make a home of the new one with ``base=folder``.
        """
        settings = changed_preset(FinetuneSettings, "finetune", recipe, changes)
        learned, aside = read_sets(questions, held_out, settings.seed, with_passages=False)
        base = self._home.base
        sets = [sequences_to_learn(tasks, settings, base.encoder) for tasks in (learned, aside)]
        with base.fitting_precision():
            tune_base(
                base, sets[0], settings, Path(folder), held_out=sets[1], on_progress=on_progress
            )
        return Path(folder)

    def _answering(self) -> Answering:
        """Greedy answers and their F1, by which a best step may be chosen."""
        home = self._home
        return Answering(
            partial(greedy_answers, home.runtime.adapted, home.base.encoder), {"f1": squad_f1}
        )

    def _tuned(
        self,
        sets: Sequence[Sequence[Task]],
        settings: FinetuneSettings,
        on_progress: Listener | None,
    ) -> Finetuned:
        """Factors tuned to questions, of which the second set chooses the best step."""
        encoder = self._home.base.encoder
        learned = [sequences_to_learn(tasks, settings, encoder) for tasks in sets]
        return self._finetuned(learned, settings, on_progress)

    def _finetuned(
        self,
        sets: Sequence[Sequence[TokenSequence]],
        settings: FinetuneSettings,
        on_progress: Listener | None,
    ) -> Finetuned:
        home = self._home
        theta = base_weight(home.layout, seed=settings.seed).theta
        with self._training():
            return finetune(
                home.runtime.adapted, sets[0], settings, theta,
                held_out=sets[1], on_progress=on_progress,
            )  # fmt: skip

    def _store(self, made: Finetuned, name: str, namespace: str, text: str, recipe: str) -> Delta:
        home = self._home
        document = Document(name, text, title=name, source=recipe)
        return put_row(
            home.store, home.embedder, home.base, made.row, document, namespace, recipe=recipe
        )

    @contextmanager
    def _training(self, *, exact: bool = False) -> Iterator[None]:
        """The model, for a run; nothing is loaded or trained on a home that can't keep it.

        Args:
            exact: without bfloat16 products, which make CaMeLS's double backward slower.
        """
        home = self._home
        home.store.check_writable()
        with home.runtime.lock, nullcontext() if exact else home.base.fitting_precision():
            yield

    def _documents(self, sources: Paths) -> Iterator[Document]:
        return read_all_documents(sources, self._home.config.limits)


def _told(learned: Sequence[Task]) -> str:
    """The text of a document that stands for a delta tuned to questions."""
    return f"Tuned to {len(learned)} questions."
