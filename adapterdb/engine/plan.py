"""A question to a plan: what was found, which deltas act how strongly, and the prompt.

Everything is decided here before the model runs; ``answer.py`` carries plans out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapterdb.answers import (
    ASK_MODES,
    MAX_K,
    AskMode,
    Composition,
    Dials,
    Generation,
    Mixture,
    Mode,
    Weighting,
    check_question,
)
from adapterdb.config import SearchConfig
from adapterdb.embedder import Embedder
from adapterdb.engine.compose import capped, compose
from adapterdb.engine.registered import Registered
from adapterdb.engine.runtime import Runtime
from adapterdb.engine.search import Found, found_as, search
from adapterdb.errors import Corrupt, InvalidInput, Locked, NotFound
from adapterdb.records import Hit, check_int, check_number
from adapterdb.store.store import Store

NOTABLE = 2.0  # times the usual norm: what is held back by less is not worth a word
NOTHING_RELEVANT = "nothing relevant is stored; answered by the base model alone"


@dataclass(frozen=True)
class AskOptions:
    """How questions are answered; None takes the home's own setting.

    Args:
        mode: ``base`` (blind), ``rag`` (text in prompt), ``adapter`` (deltas), ``hybrid`` (both),
            ``auto`` (chosen for each question, see ``auto``).
        k: hits used, 1 to 100.
        composition: how hits become a mixture, see ``compose``.
        weights: how hits are weighed; None: as the composition is defined.
        strength: gamma, multiplies every weight, 0 to 100.
        dials: numbers of the composition.
        namespace: searched.
        where: filter over names and metadata.
        as_of: answer from what was stored as of this change; None means now.
        min_similarity: hits under this cosine are not used.
        mixture: these deltas instead of searched ones (mode ``adapter`` or ``hybrid``); acts as it
            is written, whatever ``composition``, ``weights`` and ``strength`` say.
        generation: how answers are decoded.
    """

    mode: AskMode = "hybrid"
    k: int | None = None
    composition: Composition = "cat"
    weights: Weighting | None = None
    strength: float = 1.0
    dials: Dials = field(default_factory=Dials)
    namespace: str = "default"
    where: str | None = None
    as_of: int | None = None
    min_similarity: float | None = None
    mixture: Mixture | None = None
    generation: Generation = field(default_factory=Generation)

    def __post_init__(self) -> None:
        if self.mode not in ASK_MODES:
            raise InvalidInput(f"mode {self.mode!r} is not one of {', '.join(ASK_MODES)}")
        compose((), self.composition, weights=self.weights)  # refuses names it doesn't know
        if self.k is not None:
            check_int("k", self.k, 1, MAX_K)
        if self.min_similarity is not None:
            check_number("min_similarity", self.min_similarity, -1.0, 1.0)
        check_number("strength", self.strength, 0.0, 100.0)
        if self.mixture is not None and self.mode not in ("adapter", "hybrid"):
            raise InvalidInput(f"a mixture can't act in mode {self.mode!r}; use adapter or hybrid")


@dataclass(frozen=True)
class Plan:
    """A question ready to be answered.

    Args:
        sources: passages the answer will lean on, best first.
        mixture: deltas that act; empty in modes ``base`` and ``rag``.
        registered: kind and place of each of them.
        prompt: token ids.
        generation: how it is decoded, with the base model's own beams where none were asked for.
        answer_tokens: how many tokens the answer may have.
        note: what the reader of the answer should know.
        asked: what was searched, found and read, for ``explain``.
        search_ms: milliseconds it took.
    """

    question: str
    mode: Mode
    sources: tuple[Hit, ...]
    mixture: Mixture
    registered: dict[str, Registered]
    prompt: tuple[int, ...]
    generation: Generation
    answer_tokens: int
    note: str
    asked: Mapping[str, Any]
    search_ms: float


class Planner:
    """Plans questions over one store for one runtime. May plan while the model is busy."""

    def __init__(
        self, store: Store, embedder: Embedder, runtime: Runtime, settings: SearchConfig
    ) -> None:
        self.store, self.embedder, self.runtime = store, embedder, runtime
        self.settings = settings

    def plans(
        self,
        questions: Sequence[str],
        options: AskOptions,
        found: Sequence[Sequence[Found]] | None = None,
    ) -> list[Plan]:
        """The plan of each question.

        Args:
            found: what ``find`` gave for each; None: searched here.
        """
        began = time.perf_counter()
        if found is None:
            found = self.find(questions, options)
        share = 1e3 * (time.perf_counter() - began) / max(1, len(questions))
        return [
            self.plan(question, options, hits, search_ms=share)
            for question, hits in zip(questions, found, strict=True)
        ]

    def find(
        self, questions: Sequence[str], options: AskOptions, *, more: int = 0
    ) -> list[list[Found]]:
        """What search finds for each question and is similar enough, best first.

        Nothing where no search is called for. Several questions are embedded at once.

        Args:
            more: hits beyond those that will be used.
        """
        for question in questions:
            check_question(question)
        if not _searches(options):
            return [[] for _ in questions]
        # one alone is embedded while the disk reads ahead what its words have found
        vectors = [None] if len(questions) == 1 else self.embedder.encode(list(questions))
        least = options.min_similarity
        least = self.settings.min_similarity if least is None else least
        lists = []
        for question, vector in zip(questions, vectors, strict=True):
            found = search(
                self.store,
                self.embedder,
                question,
                k=self.k(options),
                more=more,
                namespace=options.namespace,
                where=options.where,
                as_of=options.as_of,
                vector=vector,
            )
            lists.append([entry for entry in found if entry.hit.similarity >= least])
        return lists

    def plan(
        self,
        question: str,
        options: AskOptions,
        found: Sequence[Found] | None = None,
        *,
        search_ms: float = 0.0,
    ) -> Plan:
        """The plan of one question.

        Args:
            found: what ``find`` gave for it; None: searched here.
            search_ms: milliseconds spent on it before.

        Raises:
            InvalidInput: if the question or its prompt can't be used, or for mode ``auto``, which
                is chosen before.
        """
        check_question(question)
        if options.mode == "auto":
            raise InvalidInput("mode 'auto' is chosen before a question is planned")
        began = time.perf_counter()
        if found is None:
            (found,) = self.find([question], options)
        ids = [delta_id for delta_id, _ in options.mixture.parts] if options.mixture else []
        named = self.given(question, ids)
        mixture = self._mixture([entry.hit for entry in found], options)
        every = [*named, *found]
        registered = {entry.hit.delta_id: entry.registered for entry in every}
        mixture, note, read = self._without_damaged(mixture, every, registered)
        mixture, strong = self._capped(mixture, every, options)
        note = "; ".join(part for part in (note, strong) if part)
        if options.mode != "base" and not found and not named:
            note = NOTHING_RELEVANT
        prompt, used = self._prompt(question, [entry.hit for entry in found], options)
        sources = found[:used] if options.mode == "rag" else found
        seen = {entry.hit.delta_id: entry.hit for entry in [*named, *sources]}
        return Plan(
            question,
            options.mode,
            tuple(seen.values()),
            mixture,
            registered,
            tuple(prompt),
            self._generation(options, blind=not used),
            self.answer_tokens(options),
            note,
            {**self._asked(options, len(found)), "read": read},
            search_ms=search_ms + 1e3 * (time.perf_counter() - began),
        )

    def _asked(self, options: AskOptions, found: int) -> dict[str, Any]:
        if not _searches(options):
            return {}
        where = {"where": options.where, "as_of": options.as_of}
        return {"namespace": options.namespace, "k": self.k(options), "found": found, **where}

    def k(self, options: AskOptions) -> int:
        """Hits used: as asked, as the home is configured, or as the base model reads best."""
        return options.k or self.settings.k or self.runtime.base.encoder.prompts.passages

    def answer_tokens(self, options: AskOptions) -> int:
        """Tokens an answer may have."""
        chosen = options.generation.max_tokens
        return self.runtime.base.encoder.prompts.max_new_tokens if chosen is None else chosen

    def _generation(self, options: AskOptions, blind: bool) -> Generation:
        """As asked; what that leaves open as the base model does best, ``blind``: without text."""
        prompts, asked = self.runtime.base.encoder.prompts, options.generation
        beams, penalty = asked.beams, asked.length_penalty
        if beams is None:
            beams = prompts.blind_beams if blind and not asked.temperature else 1
        if penalty is None:
            penalty = prompts.length_penalty
        return replace(asked, beams=beams, length_penalty=penalty)

    def given(self, question: str, delta_ids: Sequence[str]) -> list[Found]:
        """The passages of deltas a caller named, in that order; NotFound if one is not active."""
        ids = list(delta_ids)
        if not ids:
            return []
        self.store.rows_of(ids)
        vector = self.embedder.encode([question])[0]
        found = []
        for rank, delta_id in enumerate(dict.fromkeys(ids), start=1):
            delta = self.store.delta(delta_id)
            document = self.store.document(delta.namespace, f"{delta.document}@{delta.version}")
            passages = self.store.passages(document.id)
            passage = next(p for p in passages if p.passage_id == delta.passage_id)
            similarity = self.store.similarities(vector, [delta.passage_id])[delta.passage_id]
            found.append(found_as(passage, similarity, similarity, rank))
        return found

    def _mixture(self, hits: Sequence[Hit], options: AskOptions) -> Mixture:
        if options.mode in ("base", "rag"):
            return Mixture((), options.composition, options.dials)
        if options.mixture is not None:
            return options.mixture
        return compose(
            hits,
            options.composition,
            temperature=self.settings.temperature,
            weights=options.weights,
            strength=options.strength,
            dials=options.dials,
        )

    def _without_damaged(
        self, mixture: Mixture, found: Sequence[Found], registered: dict[str, Registered]
    ) -> tuple[Mixture, str, int]:
        """The mixture without deltas that can't or must not be used, a note of them, rows read.

        They are marked so, or their bytes fail their check, or their start is gone.
        """
        damaged, read = {entry.hit.delta_id for entry in found if entry.damaged}, 0
        for delta_id, _ in mixture.parts:
            if delta_id in damaged:
                continue
            try:
                read += self.runtime.check(delta_id, registered[delta_id])
            except (Corrupt, NotFound):
                damaged.add(delta_id)
            except Locked:  # no slot is free now: it is checked when it has to act
                continue
        left_out = [delta_id for delta_id, _ in mixture.parts if delta_id in damaged]
        if not left_out:
            return mixture, "", read
        kept = tuple(part for part in mixture.parts if part[0] not in damaged)
        note = f"left out because damaged: {', '.join(left_out)}; run 'adb fsck --deep'"
        return replace(mixture, parts=kept), note, read

    def _capped(
        self, mixture: Mixture, found: Sequence[Found], options: AskOptions
    ) -> tuple[Mixture, str]:
        """The mixture without excess of any delta, and a note of those that were far too strong.

        One that the caller wrote out acts as it is written, but the note still names them.
        """
        if not mixture.parts:
            return mixture, ""
        like = {(entry.hit.namespace, entry.hit.kind) for entry in found}
        usual = {(where, kind): self.store.norms.typical(where, kind) for where, kind in like}
        strengths: dict[str, float] = {}
        for entry in found:
            typical = usual[entry.hit.namespace, entry.hit.kind]
            if typical is not None:
                strengths[entry.hit.delta_id] = entry.registered.row.norm / typical
        held, over = capped(mixture, strengths, self.settings.norm_cap)
        strong = ", ".join(
            f"{i} ({strengths[i]:.3g} times the usual norm)" for i in over if strengths[i] > NOTABLE
        )
        if options.mixture is not None:
            return mixture, strong and f"unusually strong: {strong}"
        return held, strong and f"held back because unusually strong: {strong}"

    def _prompt(
        self, question: str, hits: Sequence[Hit], options: AskOptions
    ) -> tuple[list[int], int]:
        """Token ids, and how many of the hits' texts are in them."""
        encoder, room = self.runtime.base.encoder, self.answer_tokens(options)
        prompt, used = encoder.blind(question), 0
        if len(prompt) + room > encoder.max_length:
            raise InvalidInput(
                f"the question needs {len(prompt)} tokens and the answer {room};"
                f" the base model takes {encoder.max_length} in all",
                hint="ask a shorter question or lower --max-tokens",
            )
        if options.mode in ("rag", "hybrid") and hits:
            passages = [(hit.title, hit.text) for hit in hits]
            prompt, used = encoder.context(question, passages, room)
        return prompt, used


def _searches(options: AskOptions) -> bool:
    """Whether a question so asked is searched for."""
    named_only = options.mixture is not None and options.mode == "adapter"
    return options.mode != "base" and not named_only
