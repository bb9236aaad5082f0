"""Questions of the recipe that nobody wrote: clozes by rule, and those mini invents."""

from __future__ import annotations

import json
import random
from pathlib import Path

from recipe_making import module

TEXTS = [
    ("Old mill", "The old mill was built by Anna Reed in 1804. It ground 300 sacks of rye a day."),
    ("Old mill", "In 1851 a fire took the roof. Tom Lund paid for a new one of slate."),
    ("Silence", "Hush. Still."),
]


def write_data(folder: Path) -> None:
    """One passage with a question, and the texts."""
    files = {
        "passages": [{"title": "Ferry", "text": "The ferry sank in 1930.", "held_out": False}],
        "questions": [{"passage": 0, "question": "When?", "answer": "1930", "start": 18}],
        "texts": [{"title": title, "text": text} for title, text in TEXTS],
    }
    folder.mkdir(parents=True)
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def test_a_cloze_asks_for_what_it_took_out():
    """The answer is where it says, not in the question; the question word fits; forms vary."""
    sentence = "In 1804 Anna Reed built the first mill of the valley near Oakford."
    seen: dict[str, set[str]] = {}
    for seed in range(300):
        made = module("cloze").cloze(sentence, "", random.Random(seed))
        if made is not None:
            assert sentence[made.start :].startswith(made.answer)
            assert made.answer.lower() not in made.question.lower()
            seen.setdefault(made.answer, set()).add(made.question)
    assert {"1804", "Anna Reed", "Oakford"} <= set(seen)
    assert all(" year" in q or "when" in q for q in seen["1804"])
    assert any(q.startswith("where ") for q in seen["Oakford"])
    assert any(not q.startswith(("who", "what", "which")) for q in seen["Anna Reed"])
    assert all(len(questions) > 5 for questions in seen.values())


def test_a_cloze_names_the_article_where_the_sentence_says_it_for_a_pronoun():
    """The title takes the pronoun's place, or goes in front, but not always."""
    sentence = "It ground 300 sacks of rye a day."
    every = [module("cloze").cloze(sentence, "Old mill", random.Random(s)) for s in range(200)]
    asked = [made.question for made in every if made and made.answer.startswith("300")]
    named = [q for q in asked if "Old mill" in q]
    assert 0.3 < len(named) / len(asked) < 0.9
    assert not any(" It " in q for q in named)
    assert module("cloze").cloze("Hush.", "Silence", random.Random(0)) is None


def test_tasks_draw_plain_text_with_questions_it_answers(tmp_path):
    """A share of 1 draws texts only (but for a pair's lack); answers stand where they say."""
    write_data(tmp_path / "data")
    corpus = module("corpus").Corpus(tmp_path / "data")
    assert corpus.passages == [0]
    for seed in range(20):
        tasks = module("tasks").draw_tasks(corpus, 2, 3, 400, random.Random(seed), unasked=1.0)
        assert {task.passage for task in tasks} == {1, 2}
        for task in tasks:
            assert len(task.questions) == 3
            for question in task.questions:
                text = corpus.pieces[question.passage].text
                assert text[question.start :].startswith(question.answer)
                assert question.answer in task.piece.text
    some = module("tasks").draw_tasks(corpus, 1, 1, 400, random.Random(0))
    assert some[0].questions[0].answer == "1930"


def test_mini_invents_questions_it_answers_and_goes_on(tmp_path, capsys):
    """The shipped model asks about the texts; a second call begins behind the last paragraph."""
    write_data(tmp_path / "data")
    invent = module("inventing").main
    flags = ["--run", str(tmp_path), "--threads", "1", "--minutes", "0.01", "--paragraphs", "1"]
    for seed in range(3):
        invent([*flags, "--seed", str(seed)])
    path = tmp_path / "data" / "invented.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + '{"text": 2, "quest', encoding="utf-8")  # killed while it wrote
    invent([*flags, "--minutes", "0"])
    assert path.read_text(encoding="utf-8") == whole
    assert "1 paragraphs" in capsys.readouterr().out
    corpus = module("corpus").Corpus(tmp_path / "data")
    assert corpus.invented
    for question in corpus.invented:
        assert question.passage in corpus.unasked
        assert corpus.pieces[question.passage].text[question.start :].startswith(question.answer)
        assert question in corpus.questions_of[question.passage]
    assert not module("corpus").Corpus(tmp_path / "data", held_out=True).invented
