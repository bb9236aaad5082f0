"""A description and exactly so many tags of a document: what it can be filtered and found by.

After Retrievable Gradient, where they are index fields that cut the noise of retrieval.
"""

from __future__ import annotations

from typing import Any

from adapterdb.ingest.augment import instructions
from adapterdb.ingest.augment.dictation import Dictation
from adapterdb.ingest.augment.generator import Sampling
from adapterdb.ingest.augment.parse import json_object
from adapterdb.ingest.augment.plan import AugmentPlan
from adapterdb.ingest.augment.written import Account, Lack
from adapterdb.records import Document, MetadataValue
from adapterdb.training.sentences import sentences

READ_CHARS = 6000  # of the document: what it is about stands at its beginning
MAX_SENTENCES = 2
MAX_TAG_CHARS = 60


def write_tags(
    document: Document, plan: AugmentPlan, dictation: Dictation, account: Account
) -> dict[str, MetadataValue]:
    """``description`` and ``tag`` of a document; nothing if they could not be had."""

    def use(_: int, text: str) -> dict[str, MetadataValue] | None:
        return _fields(json_object(text), plan.tags)

    prompt = instructions.TAGS.format(
        title=document.title or "(none)", text=document.text[:READ_CHARS], count=plan.tags
    )
    [found] = dictation.ask([prompt], use, Sampling(256))
    if found is None:
        reason = f"no JSON object with a description and exactly {plan.tags} tags"
        account.lacks.append(Lack(document.name, -1, "tags", reason))
        return {}
    return found


def _fields(data: dict[str, Any] | None, wanted: int) -> dict[str, MetadataValue] | None:
    if data is None:
        return None
    description, tags = data.get("description"), data.get("tags")
    if not isinstance(description, str) or not isinstance(tags, list):
        return None
    description = " ".join(description.split())
    words = [" ".join(tag.split()).lower() for tag in tags if isinstance(tag, str)]
    good = all(0 < len(word) <= MAX_TAG_CHARS for word in words)
    exact = len(words) == len(tags) == len(set(words)) == wanted
    if not good or not exact or not 1 <= len(sentences(description)) <= MAX_SENTENCES:
        return None
    return {"description": description, "tag": words}
