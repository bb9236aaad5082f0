"""What a home shares is trained from files, kept as versions, and used by what comes after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from adapterdb import AdapterDB, Config, Document, LoadOptions, LoraSpec
from adapterdb.config import ChunkConfig
from adapterdb.errors import InvalidInput, NotFound, StorageFailed
from adapterdb.training.presets import preset_path

OPTIONS = LoadOptions(dtype="float32")
TEXT = "Mara rowed her boat to the island of Oste in 1804 and built a lighthouse there."


@pytest.fixture
def db(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[AdapterDB]:
    config = Config(
        base=str(tiny_folder("llama")), recipe="gradient", lora=LoraSpec(rank=2, layers="1-1"),
        delta_dtype="float32", chunk=ChunkConfig(tokens=128),
    )  # fmt: skip
    with AdapterDB.create(tmp_path / "home", config, options=OPTIONS) as made:
        yield made


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """40 questions about 20 passages."""
    path = tmp_path / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(40):
            passage = {"id": str(i // 2), "title": "", "text": f"Key {i // 2} opens door {i % 7}."}
            row = {"question": f"Which door, {i}?", "answers": [f"d{i % 7}"], "passages": [passage]}
            file.write(json.dumps(row) + "\n")
    return path


def facts(tmp_path: Path) -> Path:
    """A document with augmented facts."""
    pairs = [{"question": "Who built it?", "answer": "Mara"}]
    held = [{"question": "Built by whom?", "answer": "Mara"}]
    fact = {"text": "Mara built a lighthouse.", "qa": pairs, "held_out": held}
    row = {"id": "oste", "text": TEXT}
    row["augmented"] = [{"start": 0, "end": len(TEXT), "facts": [fact]}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def test_a_meta_init_becomes_what_deltas_are_made_from(db: AdapterDB, questions: Path) -> None:
    db.ingest([Document("a", TEXT)])
    seen = []
    part = db.trainer.meta_init(
        questions, recipe="meta-pg-1b", max_steps=2, tasks=4, lora=None, on_progress=seen.append
    )
    assert (part.kind, part.version) == ("meta-init", 1)
    assert part.facts["steps"] == 2
    assert [progress.step for progress in seen] == [1, 2]
    assert db.ingest([Document("a", TEXT)]).updated == 1
    assert db.deltas("a")[0].shared_start == part.fingerprint
    again = db.trainer.meta_init(questions, recipe="meta-pg-1b", max_steps=1, tasks=4, go_on=True)
    assert again.version == 2
    assert again.facts["begin"] == part.fingerprint


def test_an_earlier_part_can_be_used_again(db: AdapterDB, questions: Path) -> None:
    first, second = (
        db.trainer.meta_init(questions, recipe="meta-pg-1b", max_steps=1, tasks=4, seed=seed)
        for seed in (1, 2)
    )
    again = db.trainer.use("meta-init@1")
    assert (again.version, again.fingerprint) == (3, first.fingerprint)
    db.ingest([Document("a", TEXT)])
    assert db.deltas("a")[0].shared_start == first.fingerprint != second.fingerprint
    with pytest.raises(NotFound, match="no part 'meta-init@9'"):
        db.trainer.use("meta-init@9")
    with pytest.raises(NotFound, match="came without a meta-init"):
        db.trainer.use("shipped")


def test_a_task_tuned_start_serves_prag_warm_and_acts_by_name(
    db: AdapterDB, questions: Path
) -> None:
    part = db.trainer.ft(questions, max_steps=3, name="ft")
    (delta,) = db.deltas("ft")
    assert (delta.recipe, delta.kind) == ("ft", "lora")
    assert db.ask("Which door?", mode="adapter", mixture={"ft": 1.0}).sources
    document = Document("a", TEXT, rewrite="Mara built a light.", qa=(("Who?", "Mara"),) * 3)
    report = db.ingest([document], recipe="prag-warm", namespace="warm")
    assert report.added == 1
    assert db.deltas("a", namespace="warm")[0].shared_start
    db.ingest([document], recipe="ftsimada", namespace="control")
    start = db._home.starts.of_fingerprint(db.deltas("a", namespace="control")[0].shared_start)
    assert torch.equal(start.theta, db._home.starts.of_fingerprint(part.fingerprint).theta)


def test_one_delta_of_everything(db: AdapterDB, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text(TEXT, encoding="utf-8")
    (corpus / "b.txt").write_text("Another text about a mill and its weir.", encoding="utf-8")
    delta = db.trainer.dapt([corpus], "all", max_steps=3)
    assert delta.recipe == "dapt"
    assert db.get("all").passages == 1
    with db.applied({"all": 1.0}) as model, torch.no_grad():
        moved = model(torch.arange(3, 40)[None]).logits
    with torch.no_grad():
        assert not torch.equal(moved, db._home.base.model(torch.arange(3, 40)[None]).logits)


def test_one_delta_of_all_facts(db: AdapterDB, tmp_path: Path) -> None:
    delta = db.trainer.knowledge_update([facts(tmp_path)], "news", epochs=2)
    assert delta.recipe == "knowledge-update"
    plain = tmp_path / "plain.txt"
    plain.write_text(TEXT, encoding="utf-8")
    with pytest.raises(InvalidInput, match="no facts with questions"):
        db.trainer.knowledge_update([plain], "other")


def test_facts_make_a_delta_of_their_own_passage(db: AdapterDB, tmp_path: Path) -> None:
    path = facts(tmp_path)
    assert db.ingest([path], recipe="knowledge").added == 1
    assert db.deltas("oste")[0].recipe == "knowledge"
    assert db.ingest([path], recipe="knowledge").skipped == 1
    changed = path.read_text(encoding="utf-8").replace("Mara built a lighthouse.", "It is Mara's.")
    path.write_text(changed, encoding="utf-8")
    assert db.ingest([path], recipe="knowledge").updated == 1
    report = db.ingest([Document("plain", TEXT)], recipe="knowledge")
    assert report.failures[0].code == "no_augmentation"


def test_token_weights_are_trained_and_used(db: AdapterDB, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has to be trained first") as error:
        db.ingest([Document("a", TEXT)], recipe="rg", weighting="camels")
    assert error.value.code == "no_weigher"
    small = tmp_path / "small.toml"
    text = preset_path("camels-mini").read_text(encoding="utf-8")
    small.write_text(text.replace("layers = 3", "layers = 1"), encoding="utf-8")
    part = db.trainer.camels(questions, recipe=str(small), max_steps=2)
    assert part.kind == "camels"
    names = ["uniform", "salient", "camels"]
    for name in names:
        db.ingest([Document("a", TEXT)], recipe="rg", weighting=name, namespace=name)
    rows = [
        db._home.store.read_row(db._home.store.rows_of([db.deltas("a", namespace=n)[0].id])[0])
        for n in names
    ]
    assert not torch.equal(rows[0], rows[1])
    assert db.ingest([Document("a", TEXT)], recipe="rg", weighting="camels",
                     namespace="camels").skipped == 1  # fmt: skip


def test_tfidf_is_counted_once_and_kept(db: AdapterDB, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    part = db.trainer.tfidf([tmp_path / "a.txt"])
    assert (part.kind, part.facts["texts"]) == ("tfidf", 1)
    assert db.trainer.tfidf([tmp_path / "a.txt"]) == part
    assert db.ingest([Document("a", TEXT)], recipe="rg", weighting="tfidf").added == 1


def test_a_tuned_base_is_a_model_of_its_own(db: AdapterDB, questions: Path, tmp_path: Path) -> None:
    folder = db.trainer.base(questions, tmp_path / "tuned", max_steps=2)
    config = Config(base=str(folder), recipe="rg", chunk=ChunkConfig(tokens=128))
    with AdapterDB.create(tmp_path / "other", config, options=OPTIONS) as other:
        assert other.fingerprints["base_model"] != db.fingerprints["base_model"]
        assert other.ingest([Document("a", TEXT)]).added == 1


def test_wrong_settings_are_named(db: AdapterDB, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no setting 'speed'"):
        db.trainer.meta_init(questions, speed=9)
    with pytest.raises(InvalidInput, match="is for delta, not for meta-init"):
        db.trainer.meta_init(questions, recipe="rg")
    with pytest.raises(InvalidInput, match="there is no file"):
        db.trainer.ft(tmp_path / "none.jsonl")
    with pytest.raises((InvalidInput, NotFound)):
        db.trainer.dapt([tmp_path / "none.txt"], "x")


def test_a_read_only_home_is_not_trained(db: AdapterDB, questions: Path) -> None:
    path = db.path
    db.close()
    with (
        AdapterDB.open(path, options=OPTIONS, read_only=True) as again,
        pytest.raises(StorageFailed),
    ):
        again.trainer.ft(questions, max_steps=1)
