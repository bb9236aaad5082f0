"""Checks of the example corpus and its questions."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
CORPUS = EXAMPLES / "corpus"
QUESTIONS = EXAMPLES / "questions.jsonl"
KINDS = {"place", "person", "organisation", "event", "object", "institution"}
SUPPORTING_COUNT = {"single": 1, "two": 2, "unanswerable": 0}
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)


def read_article(path: Path) -> tuple[dict[str, str], str]:
    """Return the front matter and the body, without its heading, of one article."""
    match = FRONT_MATTER.match(path.read_text(encoding="utf-8"))
    assert match is not None, f"{path.name} has no front matter"
    meta = dict(line.split(": ", 1) for line in match.group(1).splitlines())
    body = re.sub(r"^# .*\n", "", match.group(2), count=1, flags=re.MULTILINE)
    return meta, body.strip()


def read_articles() -> dict[str, tuple[dict[str, str], str]]:
    """Return every article by its id, which is the file name without the suffix."""
    return {path.stem: read_article(path) for path in sorted(CORPUS.glob("*.md"))}


def read_questions() -> list[dict[str, Any]]:
    """Return the question records in file order."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text, without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def eight_word_runs(text: str) -> set[tuple[str, ...]]:
    """Return every run of eight consecutive words of a text."""
    found = words(text)
    return {tuple(found[start : start + 8]) for start in range(len(found) - 7)}


def test_article_bodies_have_the_agreed_length() -> None:
    """There are 32 articles, each with 110 to 240 words of body and no second heading."""
    articles = read_articles()
    assert len(articles) == 32
    for name, (_, body) in articles.items():
        assert 110 <= len(body.split()) <= 240, name
        assert not re.search(r"^#", body, flags=re.MULTILINE), name


def test_front_matter_is_complete() -> None:
    """Every article has exactly the agreed keys with well-formed values."""
    for name, (meta, _) in read_articles().items():
        assert list(meta) == ["title", "kind", "region", "year", "tags"], name
        assert meta["kind"] in KINDS, name
        assert re.fullmatch(r"\d{4}", meta["year"]), name
        assert re.fullmatch(r"\[[a-z-]+(, [a-z-]+)*\]", meta["tags"]), name


def test_file_names_are_the_titles_in_kebab_case() -> None:
    """Every file name is the ASCII kebab-case form of the article title."""
    for name, (meta, _) in read_articles().items():
        assert name == "-".join(words(meta["title"]))


def test_question_records_are_well_formed() -> None:
    """Every record has the agreed keys, and its kind fits its answers and articles."""
    keys = {
        "id", "question", "answers", "passages", "supporting", "answerable", "kind", "split",
    }  # fmt: skip
    for record in read_questions():
        name = record["id"]
        assert set(record) == keys, name
        assert record["question"].endswith("?"), name
        assert len(set(record["supporting"])) == SUPPORTING_COUNT[record["kind"]], name
        assert record["answerable"] is (record["kind"] != "unanswerable"), name
        assert bool(record["answers"]) is record["answerable"], name
        assert all(1 <= len(answer.split()) <= 6 for answer in record["answers"]), name
        passage_ids = {passage["id"] for passage in record["passages"]}
        assert passage_ids == set(record["supporting"]), name


def test_ids_and_questions_are_unique() -> None:
    """No id and no question wording occurs twice."""
    records = read_questions()
    assert len({record["id"] for record in records}) == len(records)
    assert len({record["question"].lower() for record in records}) == len(records)


def test_supporting_articles_exist_and_all_are_used() -> None:
    """Every supporting id names an article, and every article supports two questions or more."""
    articles = read_articles()
    uses = Counter(name for record in read_questions() for name in record["supporting"])
    assert set(uses) == set(articles)
    assert min(uses.values()) >= 2


def test_passages_are_copied_verbatim() -> None:
    """Every passage has the title of its article and occurs word for word in its body."""
    articles = read_articles()
    for record in read_questions():
        for passage in record["passages"]:
            meta, body = articles[passage["id"]]
            assert passage["title"] == meta["title"], record["id"]
            assert passage["text"], record["id"]
            assert passage["text"] in body, record["id"]


def test_answers_occur_in_the_passages() -> None:
    """An accepted answer of every answerable question occurs in one of its passages."""
    for record in read_questions():
        if record["answerable"]:
            texts = [passage["text"].lower() for passage in record["passages"]]
            found = any(answer.lower() in text for answer in record["answers"] for text in texts)
            assert found, record["id"]


def test_questions_do_not_contain_their_answers() -> None:
    """No question gives away one of its accepted answers."""
    for record in read_questions():
        question = f" {' '.join(words(record['question']))} "
        for answer in record["answers"]:
            assert f" {' '.join(words(answer))} " not in question, record["id"]


def test_questions_are_paraphrased() -> None:
    """No question shares a run of eight words with any article."""
    known: set[tuple[str, ...]] = set()
    for _, body in read_articles().values():
        known |= eight_word_runs(body)
    for record in read_questions():
        assert not eight_word_runs(record["question"]) & known, record["id"]


def test_counts_of_kinds_and_splits() -> None:
    """There are enough questions of each kind, and about 30 percent of each are for tuning."""
    records = read_questions()
    kinds = Counter(record["kind"] for record in records)
    tune = Counter(record["kind"] for record in records if record["split"] == "tune")
    assert {record["split"] for record in records} == {"tune", "report"}
    assert set(kinds) == set(SUPPORTING_COUNT)
    assert len(records) >= 110
    assert 0.70 <= kinds["single"] / len(records) <= 0.85
    assert kinds["two"] >= 12
    assert kinds["unanswerable"] >= 12
    for kind, count in kinds.items():
        assert 0.25 <= tune[kind] / count <= 0.35, kind
