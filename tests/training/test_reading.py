"""Reading tasks mined from passages."""

from __future__ import annotations

import pytest

from adapterdb.training.reading import reading_tasks, reading_text
from adapterdb.training.sentences import sentences, stands_alone

TEXT = (
    "The weir of Almery was raised in 1790. However, the millers kept the older channel open. "
    "The channel froze because the winter was hard. "
    "Mills stood idle for months, that is, nobody ground any corn. "
    "Fishermen complained about consequences throughout neighbouring villages."
)


def mined(title: str, text: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for task in reading_tasks(title, text):
        found.setdefault(task.kind, []).append((task.question, task.answer))
    return found


def test_every_kind_is_found() -> None:
    """Title, words, inference, cause, paraphrase, completion; answers out of the text."""
    found = mined("Almery  weir", TEXT)
    assert list(found) == ["title", "words", "inference", "cause", "paraphrase", "completion"]
    assert found["title"][0][1] == "Almery weir"
    [(question, answer)] = found["words"]
    assert "complained, consequences, neighbouring" in question
    assert answer == sentences(TEXT)[-1]
    [(question, answer)] = found["inference"]
    assert '"The millers kept the older channel open."' in question
    assert answer == "The second runs against the first."
    [(question, answer)] = found["cause"]
    assert ('"The channel froze"' in question, answer) == (True, "The winter was hard")
    [(question, answer)] = found["paraphrase"]
    assert '"Mills stood idle for months"' in question
    assert answer == "Nobody ground any corn."
    assert found["completion"][0][1] == sentences(TEXT)[-1]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Because the bridge fell, trains go by Sedd.", "The bridge fell"),
        ("Trains go by Sedd due to the fallen bridge.", "The fallen bridge"),
        ("Trains go by Sedd because of the fallen bridge.", "The fallen bridge"),
    ],
)
def test_causes(text: str, cause: str) -> None:
    """However the sentence is built."""
    [(question, answer)] = mined("", text)["cause"]
    assert "rains go by Sedd" in question
    assert answer == cause


def test_the_text_comes_first_and_whole() -> None:
    """As it is, then the tasks, always the same."""
    whole = reading_text("Weir", TEXT)
    assert whole.startswith(TEXT + "\n\n")
    assert whole == reading_text("Weir", TEXT)
    assert len(whole) > len(TEXT) + 300


def test_the_text_alone_where_nothing_is_found() -> None:
    """No title, no cue, too few sentences."""
    for text in ("Hay is dry.", "", "Word"):
        assert reading_text("", text) == text


def test_wordings_vary_between_passages() -> None:
    """Not every passage is asked alike."""
    asked = {mined("Weir", f"Passage {i} is short.")["title"][0][0] for i in range(20)}
    assert len(asked) == 3


def test_braces_and_patterns_in_a_text_are_text() -> None:
    """A text can't break a wording, and long ones take no time."""
    text = "Set {0} and {x} froze because {1} was {hard}. " * 3000
    assert "{1} was {hard}" in reading_text("{title}", text)


def test_sentences() -> None:
    """Abbreviations and initials end none; line breaks do."""
    text = 'Dr. J. Torv spoke.  "It works!" She left at 3.5 km.\nAlmery, U.S. Marshal Bly said so'
    assert sentences(text) == [
        "Dr. J. Torv spoke.", '"It works!"', "She left at 3.5 km.",
        "Almery, U.S. Marshal Bly said so",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["It fell.", "However, it fell.", '"They" fell.', "1874"])
def test_what_leans_on_others(text: str) -> None:
    """Pronouns and connectives at the beginning, and what has no word."""
    assert not stands_alone(text)
    assert stands_alone("Item one fell.")
