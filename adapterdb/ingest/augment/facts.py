"""KnowledgeUpdate's augmentation: a passage to atomic facts, each with questions in many voices.

theme -> numbered facts -> seed question and answer, or SKIP -> roles -> questions in the voice of
each role -> held-out paraphrases. Each step asks about all passages of the document at once.
After github.com/Dong237/KnowledgeUpdate and arXiv 2404.00213 (a fixed number of pairs for each
fact, so that coverage is even). Unlike there, what can't be parsed is asked again and then
reported, and what tests a fact is never learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapterdb.ingest.augment import instructions
from adapterdb.ingest.augment.dictation import Dictation
from adapterdb.ingest.augment.generator import Sampling
from adapterdb.ingest.augment.parse import Pair, is_skip, numbered, pairs, same_words
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.written import Account, PassageWriting, Piece
from adapterdb.records import Fact
from adapterdb.training.sentences import stands_alone

MAX_THEME_WORDS = 4
DRAWN = 0.7  # temperature of what should differ from one another


@dataclass
class _Draft:
    """A fact on its way; ``asked`` holds every question there is, so that none comes twice."""

    piece: Piece
    written: PassageWriting
    theme: str
    text: str
    seed: Pair = ("", "")
    qa: list[tuple[str, Pair]] = field(default_factory=list)  # role and pair
    held_out: list[Pair] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def prompt(self, template: str, **values: object) -> str:
        question, answer = self.seed
        return _about(
            self.piece, template, fact=self.text, question=question, answer=answer, **values
        )

    def new(self, text: str, wanted: int) -> list[Pair]:
        """Up to ``wanted`` pairs in ``text`` whose questions were not there before."""
        found: list[Pair] = []
        for question, answer in pairs(text):
            if len(found) < wanted and (words := same_words(question)) not in self.asked:
                self.asked.add(words)
                found.append((question, answer))
        return found

    def fact(self) -> Fact:
        roles = tuple(role for role, _ in self.qa)
        return Fact(self.text, tuple(pair for _, pair in self.qa), tuple(self.held_out), roles)


def write_facts(
    pieces: Sequence[Piece],
    written: Sequence[PassageWriting],
    plan: AugmentPlan,
    dictation: Dictation,
    account: Account,
) -> None:
    """Fill in theme and facts of the passages of one document."""
    themes = _themes(pieces, dictation, account)
    drafts = _drafts(pieces, written, themes, dictation, account)
    drafts = _seeds(drafts, dictation, account)
    roles = _roles(drafts, plan, dictation, account)
    asked = [draft for draft in drafts if draft.seed[0]]
    _diversify(asked, roles, plan, dictation, account)
    _hold_out(asked, plan, dictation, account)
    for own, theme in zip(written, themes, strict=True):
        own.theme = theme
    for draft in drafts:
        draft.written.facts.append(draft.fact())


def _themes(pieces: Sequence[Piece], dictation: Dictation, account: Account) -> list[str]:
    def use(_: int, text: str) -> str | None:
        theme = text.splitlines()[0].strip(" \"'.*") if text else ""
        return theme if 1 <= len(theme.split()) <= MAX_THEME_WORDS else None

    prompts = [_about(piece, instructions.THEME) for piece in pieces]
    found = dictation.ask(prompts, use, Sampling(max_tokens=24))
    for piece, theme in zip(pieces, found, strict=True):
        if theme is None:
            account.lack(piece, "theme", f"no topic of 1 to {MAX_THEME_WORDS} words was given")
    return [
        theme or " ".join(piece.title.split()[:MAX_THEME_WORDS])
        for piece, theme in zip(pieces, found, strict=True)
    ]


def _drafts(
    pieces: Sequence[Piece],
    written: Sequence[PassageWriting],
    themes: Sequence[str],
    dictation: Dictation,
    account: Account,
) -> list[_Draft]:
    """The facts of all passages: each once, each understandable alone."""
    prompts = [
        _about(piece, instructions.FACTS, theme=theme)
        for piece, theme in zip(pieces, themes, strict=True)
    ]
    listed = dictation.ask(prompts, lambda _, text: numbered(text) or None, Sampling(1024))
    drafts: list[_Draft] = []
    seen: set[str] = set()
    for piece, own, theme, facts in zip(pieces, written, themes, listed, strict=True):
        if facts is None:
            account.lack(piece, "facts", "no numbered list of facts was given")
        for text in facts or ():
            if not stands_alone(text):
                account.skipped["fact begins with a pronoun or leans on another"] += 1
            elif same_words(text) in seen:
                account.skipped["fact came before"] += 1
            else:
                seen.add(same_words(text))
                drafts.append(_Draft(piece, own, theme, text))
    return drafts


def _seeds(drafts: Sequence[_Draft], dictation: Dictation, account: Account) -> list[_Draft]:
    """The facts that can be asked about, each with its first question."""

    def use(_: int, text: str) -> Pair | None:
        if is_skip(text):
            return ("", "")
        return next(iter(pairs(text)), None)

    prompts = [draft.prompt(instructions.SEED) for draft in drafts]
    kept = []
    for draft, pair in zip(drafts, dictation.ask(prompts, use, Sampling(128)), strict=True):
        if pair == ("", ""):
            account.skipped["SKIP: the model found nothing to ask about a fact"] += 1
            continue
        if pair is None:  # the fact stays, without questions, and shows as uncovered
            account.lack(draft.piece, "seed", f"no question and answer for {draft.text!r}")
        else:
            draft.seed = pair
            draft.asked.add(same_words(pair[0]))
        kept.append(draft)
    return kept


def _roles(
    drafts: Sequence[_Draft], plan: AugmentPlan, dictation: Dictation, account: Account
) -> dict[str, list[str]]:
    """Personas by theme."""

    def use(_: int, text: str) -> list[str] | None:
        roles = list(dict.fromkeys(role.strip(" .*") for role in numbered(text)))
        return roles[: plan.roles] if len(roles) >= plan.roles else None

    place = {draft.theme: draft.piece for draft in reversed(drafts)}
    prompts = [instructions.ROLES.format(theme=theme, count=plan.roles) for theme in place]
    found = dictation.ask(prompts, use, Sampling(max_tokens=128))
    for (theme, piece), roles in zip(place.items(), found, strict=True):
        if roles is None:
            account.lack(piece, "roles", f"no {plan.roles} roles were given for {theme!r}")
    usual = ["a curious reader"]
    return {theme: roles or usual for theme, roles in zip(place, found, strict=True)}


def _diversify(
    drafts: Sequence[_Draft],
    roles: dict[str, list[str]],
    plan: AugmentPlan,
    dictation: Dictation,
    account: Account,
) -> None:
    """Questions in each role's voice, as many as its share."""
    orders = [
        (draft, role, share)
        for draft in drafts
        for role, share in zip(
            roles[draft.theme], plan.shares(len(roles[draft.theme])), strict=True
        )
    ]
    got: list[list[Pair]] = [[] for _ in orders]

    def use(i: int, text: str) -> bool | None:
        draft, _, share = orders[i]
        got[i] += draft.new(text, share - len(got[i]))
        return len(got[i]) == share or None

    prompts = [
        draft.prompt(instructions.DIVERSIFY, role=role, count=share)
        for draft, role, share in orders
    ]
    dictation.ask(prompts, use, Sampling(1024, temperature=DRAWN))
    for (draft, role, share), found in zip(orders, got, strict=True):
        draft.qa += [(role, pair) for pair in found]
        if len(found) < share:
            reason = f"{len(found)} of {share} pairs as {role!r} about {draft.text!r}"
            account.lack(draft.piece, "qa", reason)


def _hold_out(
    drafts: Sequence[_Draft], plan: AugmentPlan, dictation: Dictation, account: Account
) -> None:
    """Paraphrases of the seed question that are in no pair to learn from."""
    wanted = plan.held_out_per_fact
    if not wanted:
        return

    def use(i: int, text: str) -> bool | None:
        draft = drafts[i]
        draft.held_out += draft.new(text, wanted - len(draft.held_out))
        return len(draft.held_out) == wanted or None

    prompts = [draft.prompt(instructions.HELD_OUT, count=wanted) for draft in drafts]
    dictation.ask(prompts, use, Sampling(256, temperature=DRAWN))
    for draft in drafts:
        if len(draft.held_out) < wanted:
            reason = f"{len(draft.held_out)} of {wanted} paraphrases about {draft.text!r}"
            account.lack(draft.piece, "held_out", reason)


def _about(piece: Piece, template: str, **values: object) -> str:
    return template.format(title=piece.title or "(none)", text=piece.passage.text, **values)
