"""An answer's prompt, mixture and tokens, made again from its record.

The record holds texts and weights but no token ids and no rows, so what was made of them is found
again and held against the counts and the log-probability that the record does hold. What has been
deleted or forgotten since, or is damaged, is left out and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from adapterdb.answers import Answer, Source
from adapterdb.engine.attribution import Attributor, Case, Leaned, Variant
from adapterdb.engine.registered import Registered
from adapterdb.engine.runtime import Runtime
from adapterdb.engine.search import found_as
from adapterdb.errors import Corrupt, NotFound
from adapterdb.store.store import Store


class Remade(NamedTuple):
    """What an answer can be explained by.

    Attributes:
        case: None where nothing is left that acted, or nothing was said.
        registered: kind and place of every delta of the answer that is left.
        notes: what is gone or no longer as it was.
    """

    case: Case | None
    registered: dict[str, Registered]
    notes: tuple[str, ...]


def remake(answer: Answer, store: Store, runtime: Runtime) -> Remade:
    """What is left of the making of ``answer``."""
    registered, notes = _left(answer, store, runtime)
    encoder = runtime.base.encoder
    # with just the room the prompt left, the same passages fit and the same one is cut
    room = max(0, encoder.max_length - answer.tokens_in)
    read = _read(answer, runtime, room)
    if read is None:
        notes.append(f"the prompt of {answer.tokens_in} tokens can't be made again as it was")
        read = range(len(answer.sources))
    leaned = tuple(
        Leaned(s.delta_id, s.document, s.version, s.title, s.text, i in read)
        for i, s in enumerate(answer.sources)
        if s.delta_id in registered
    )
    parts = tuple(part for part in answer.mixture.parts if part[0] in registered)
    mixture = replace(answer.mixture, parts=parts)
    said = dict.fromkeys(tuple(encoder.text(lead + answer.text)) for lead in (" ", ""))
    choices = [Case(answer.question, mixture, leaned, room, ids) for ids in said if answer.text]
    if not leaned or not choices:
        why = "nothing was said" if leaned else "nothing that acted or was read is left"
        return Remade(None, registered, (*notes, f"{why}: there is nothing to attribute"))
    return Remade(_likest(choices, answer, runtime, registered), registered, tuple(notes))


def registered_of(store: Store, delta_id: str) -> Registered:
    """What it takes to act with a delta of any version that is not deleted; NotFound."""
    delta = store.delta(delta_id)
    document = store.document(delta.namespace, f"{delta.document}@{delta.version}")
    for passage in store.passages(document.id):
        if passage.delta_id == delta.id:
            return found_as(passage, 0.0, 0.0, 1).registered
    raise NotFound(f"there is no delta with the id {delta_id!r}")


def _left(
    answer: Answer, store: Store, runtime: Runtime
) -> tuple[dict[str, Registered], list[str]]:
    """The deltas that are left, and a note for each that is not."""
    names = {s.delta_id: f" of {s.document}@{s.version}" for s in answer.sources}
    acting = [delta_id for delta_id, _ in answer.mixture.parts]
    registered: dict[str, Registered] = {}
    notes: list[str] = []
    for delta_id in dict.fromkeys([*acting, *names]):
        named = f"delta {delta_id}{names.get(delta_id, '')}"
        try:
            known = registered_of(store, delta_id)
            if delta_id in acting:
                runtime.check(delta_id, known)
            registered[delta_id] = known
        except NotFound:
            notes.append(f"{named} has been deleted or forgotten since: it is left out")
        except Corrupt:
            notes.append(f"{named} can't be used any more: it is left out")
    return registered, notes


def _read(answer: Answer, runtime: Runtime, room: int) -> Sequence[int] | None:
    """Which sources' texts the prompt held, by place: those that make it as long as it was.

    Deltas that a caller named come before what was found and were not read, unless found as well;
    they act, and what was found beside them does not.
    """
    encoder = runtime.base.encoder
    if (
        answer.mode in ("base", "adapter")
        or len(encoder.blind(answer.question)) == answer.tokens_in
    ):
        return ()
    acting = {delta_id for delta_id, _ in answer.mixture.parts}
    idle = [i for i, source in enumerate(answer.sources) if source.delta_id not in acting]
    texts = [_text(source) for source in answer.sources]
    for kept_free in (0, room):  # a prompt that was cut is as long whichever texts it begins with
        for first in range(idle[0] + 1 if idle else 1):
            ids, used = encoder.context(answer.question, texts[first:], kept_free)
            if len(ids) == answer.tokens_in:
                return range(first, first + used)
    return None


def _text(source: Source) -> tuple[str, str]:
    return source.title, source.text


def _likest(
    choices: Sequence[Case],
    answer: Answer,
    runtime: Runtime,
    registered: dict[str, Registered],
) -> Case:
    """The case whose tokens are as many and as likely as those the record counts."""
    same = [case for case in choices if len(case.said) == answer.tokens_out] or list(choices)
    if len(same) == 1 or answer.logprob is None:
        return same[0]
    attributor = Attributor(runtime, registered)

    def differs(case: Case) -> float:
        variant = Variant(attributor.prompt(case), case.mixture)
        found = float(attributor.logprobs([variant], case.said)[0])
        return abs(found / len(case.said) - (answer.logprob or 0.0))

    return min(same, key=differs)
