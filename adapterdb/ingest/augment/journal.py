"""Every text a generator wrote, with its prompt: written at once, and read back instead of paying.

``OUT.journal.jsonl``: a head ``{"generator": {"name", "fingerprint", "skill"}}``, then one
``{"key", "prompt", "text", "temperature", "seed", "max_tokens"}`` for each text. A line is on disk
before the next prompts are sent; a torn last line is cut off. It holds what the prompts quote:
passages of the documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from adapterdb.errors import InvalidInput, Mismatch, Rejected
from adapterdb.ingest.augment.generator import Sampling, Skill, TextGenerator
from adapterdb.ingest.augment.lines import append_lines, read_lines


class Journaled:
    """A generator that never writes the same text twice.

    Args:
        generator: what writes.
        path: of the journal; made if it is not there.

    Raises:
        Mismatch: if the journal is of another generator.
    """

    def __init__(self, generator: TextGenerator, path: Path) -> None:
        self.generator, self.path = generator, path
        self.asked = 0  # prompts that were not in the journal
        head = _head_of(generator)
        found, self._texts = read_journal(path) if path.exists() else ({}, {})
        if found and found != head:
            raise Mismatch(
                f"{path} was written by {found.get('name')!r}, not by {generator.name!r}",
                hint="remove it, or write somewhere else",
            )
        if not found:
            append_lines(path, [{"generator": head}])

    @property
    def name(self) -> str:
        """The generator's."""
        return self.generator.name

    @property
    def fingerprint(self) -> str:
        """The generator's."""
        return self.generator.fingerprint

    @property
    def skill(self) -> Skill:
        """The generator's."""
        return self.generator.skill

    @property
    def at_once(self) -> int:
        """The generator's."""
        return self.generator.at_once

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """As the generator; what is in the journal is read from there."""
        keys = [_key(prompt, sampling) for prompt in prompts]
        missing = {
            key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._texts
        }
        new = list(missing.items())
        for i in range(0, len(new), self.at_once):
            some = new[i : i + self.at_once]
            texts = self.generator.generate([prompt for _, prompt in some], sampling)
            self.asked += len(some)
            rows = []
            for (key, prompt), text in zip(some, texts, strict=True):
                self._texts[key] = text
                rows.append(
                    {
                        "key": key,
                        "prompt": prompt,
                        "text": text,
                        "temperature": sampling.temperature,
                        "seed": sampling.seed,
                        "max_tokens": sampling.max_tokens,
                    }
                )
            append_lines(self.path, rows)
        return [self._texts[key] for key in keys]


class Recorded:
    """Repeats what a journal holds, with no model; its name and fingerprint are the journal's."""

    at_once = 1024

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InvalidInput(f"there is no journal {str(path)!r}")
        head, self._texts = read_journal(path)
        if head.get("skill") not in get_args(Skill):
            raise InvalidInput(
                f"{path} is no journal of 'adb augment': its first line names no generator"
            )
        self.name, self.fingerprint = str(head.get("name")), str(head.get("fingerprint"))
        self.skill: Skill = head["skill"]
        self.path = path

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """The texts recorded for exactly these prompts and this sampling."""
        found = []
        for prompt in prompts:
            text = self._texts.get(_key(prompt, sampling))
            if text is None:
                raise Rejected(
                    f"{self.path} holds no text for the prompt {prompt[:60]!r}...",
                    code="not_recorded",
                    hint="it was made from other documents or settings",
                )
            found.append(text)
        return found


def read_journal(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The head of a journal, and its texts by key; a torn last line is left out.

    Raises:
        InvalidInput: if another line is no JSON object.
    """
    head: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for row in read_lines(path):
        if isinstance(row.get("generator"), dict):
            head = head or row["generator"]
        elif isinstance(row.get("key"), str) and isinstance(row.get("text"), str):
            texts[row["key"]] = row["text"]
    return head, texts


def _head_of(generator: TextGenerator) -> dict[str, Any]:
    return {
        "name": generator.name,
        "fingerprint": generator.fingerprint,
        "skill": generator.skill,
    }


def _key(prompt: str, sampling: Sampling) -> str:
    facts = [
        prompt, sampling.max_tokens, list(sampling.stop), sampling.temperature, sampling.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
