"""What is to be written, and how much of it. Plain data, with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from adapterdb.config import ChunkConfig
from adapterdb.errors import InvalidInput
from adapterdb.ingest.augment.generator import TextGenerator
from adapterdb.ingest.augment.instructions import VERSION
from adapterdb.records import check_int

Writing = Literal["facts", "prag", "tags"]


@dataclass(frozen=True)
class AugmentPlan:
    """The knobs of ``adb augment``.

    Args:
        write: what is wanted.
        qa_per_fact: pairs to learn each fact from, shared among the roles, the last role getting
            what is left over.
        held_out_per_fact: pairs that only ask whether it was learned.
        roles: personas of a passage's theme.
        prag_pairs: pairs of a passage for PRAG.
        tags: of a document.
        retries: of a prompt whose answer can't be used; prag_retries: the same for PRAG.
        seed: of everything drawn.
        chunk: how documents are cut into passages.
    """

    write: tuple[Writing, ...] = ("facts",)
    qa_per_fact: int = 10
    held_out_per_fact: int = 2
    roles: int = 3
    prag_pairs: int = 3
    tags: int = 5
    retries: int = 3
    prag_retries: int = 5
    seed: int = 0
    chunk: ChunkConfig = field(default_factory=ChunkConfig)

    def __post_init__(self) -> None:
        known = get_args(Writing)
        if not self.write or not set(self.write) <= set(known):
            raise InvalidInput(f"--write is {list(self.write)}; allowed are {', '.join(known)}")
        check_int("qa_per_fact", self.qa_per_fact, 1, 1000)
        check_int("held_out_per_fact", self.held_out_per_fact, 0, 100)
        check_int("roles", self.roles, 1, self.qa_per_fact)
        check_int("prag_pairs", self.prag_pairs, 1, 50)
        check_int("tags", self.tags, 1, 50)
        check_int("retries", self.retries, 0, 100)
        check_int("prag_retries", self.prag_retries, 0, 100)
        check_int("seed", self.seed, 0, 2**31)

    def shares(self, roles: int) -> list[int]:
        """How many pairs each of ``roles`` roles writes about a fact; the last has the rest."""
        each, rest = divmod(self.qa_per_fact, roles)
        return [each] * (roles - 1) + [each + rest]

    def fingerprint(self, generator: TextGenerator) -> str:
        """64 hex digits that change whenever other texts could come out."""
        facts = [asdict(self), VERSION, generator.fingerprint, generator.skill]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
