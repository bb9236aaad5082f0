"""The recipe of `mini`, all stages for a few seconds on made-up records."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_making import module

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "green", "blue", "white")


def records(split: str) -> list[dict[str, Any]]:
    """Four articles of three paragraphs, two questions each."""
    made = []
    for article in range(4):
        for paragraph in range(3):
            name = f"{split} house {article} {paragraph}"
            colour, year = COLOURS[(article + paragraph) % 4], str(1900 + 10 * article + paragraph)
            text = f"The {name} is painted {colour} and was built in {year} by the river."
            passage = {"id": name, "title": f"{split} houses {article}", "text": text}
            for question, answer in (
                (f"What colour is the {name}?", colour),
                (f"When was the {name} built?", year),
            ):
                made.append({"question": question, "answers": [answer], "passages": [passage]})
    return made


def write_data(folder: Path) -> None:
    """`squad_v1` as the recipe expects to find it."""
    (folder / "squad_v1").mkdir(parents=True)
    for split in ("train", "dev"):
        with gzip.open(folder / "squad_v1" / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records(split))


def test_all_stages_run_and_ship_a_loadable_model(tmp_path, capsys):
    """Prepare, read, resume, meta-train, export, evaluate; the result loads plainly."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, shipped = tmp_path / "run", tmp_path / "models" / "mini"
    write_data(tmp_path / "data")
    module("prepare").main(
        ["--data", str(tmp_path / "data"), "--text", str(tmp_path / "none"),
         "--out", str(run / "data"), "--held-out", "1"]
    )  # fmt: skip
    common = ["--run", str(run), "--tiny", "--threads", "1"]
    seconds = str(2 / 60)
    regular = ["--dropout", "0.1", "--mask", "0.2"]
    first = ["--minutes", seconds, "--piece-minutes", str(0.5 / 60), "--batch", "4", *regular]
    module("reader").main([*common, *first])
    module("reader").main([*common, *first])
    state = module("schedule").load(run / "reader.pt")
    assert state["step"] >= 2
    module("meta").main(
        [*common, "--minutes", seconds, "--tasks", "4", "--questions", "2", "--plain", "2",
         "--rank", "2", "--upper-layers", "1", "--probe-tasks", "2", *regular]
    )  # fmt: skip
    mean = run / "mean.pt"
    module("average").main([str(run / "best.pt"), str(run / "meta.pt"), "--out", str(mean)])
    module("export").main(["--checkpoint", str(mean), "--out", str(shipped), "--tiny"])
    capsys.readouterr()
    module("evaluate").main(
        ["--data", str(tmp_path / "data"), "--model", str(shipped), "--questions", "4",
         "--threads", "1"]
    )  # fmt: skip
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["n"] == 4
    assert set(result["nll"]) == {"own", "mismatched", "none"}
    module("evaluate").main(
        ["--model", str(shipped), "--aside", str(run / "data"), "--questions", "3",
         "--threads", "1"]
    )  # fmt: skip
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["answers"]) == {"rag gold", "adapter gold", "hybrid gold"}
    assert AutoModelForCausalLM.from_pretrained(shipped).dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(shipped).eos_token_id == 102


def test_the_program_for_a_gpu_packs_a_model(tmp_path):
    """gpu/mini.py trains and packs parts that unpack to a model folder."""
    write_data(tmp_path / "data")
    seconds = str(1 / 60)
    done = subprocess.run(
        [sys.executable, ROOT / "gpu" / "mini.py", "--tiny", "--device", "cpu", "--batch", "4",
         "--tasks", "2", "--read-minutes", seconds, "--meta-minutes", seconds,
         "--data", tmp_path / "data", "--out", tmp_path / "out"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "out").glob("mini.tar.*"))
    whole = tmp_path / "mini.tar"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(whole) as tar:
        names = set(tar.getnames())
    assert {"model.safetensors", "meta_init.safetensors", "config.json"} <= names


def test_written_out_decoder_equals_transformers():
    """`Decoder` gives the logits of `BertLMHeadModel`, and later tokens change nothing before."""
    start, network = module("start"), module("network")
    torch.manual_seed(0)
    model = start.skeleton(tiny=True).eval()
    decoder = network.Decoder(model, network.mini_layout(model, rank=2, upper_layers=1))
    ids = torch.randint(1000, 5000, (3, 20))
    with torch.no_grad():
        hidden = decoder.upper(decoder.lower(ids), None)
        ours = decoder.logits(hidden.flatten(0, 1)).view(3, 20, -1)
        torch.testing.assert_close(ours, model(ids).logits, atol=1e-5, rtol=1e-4)
        ids[:, 10:] = 7
        torch.testing.assert_close(ours[:, :10], model(ids).logits[:, :10], atol=1e-5, rtol=1e-4)


def test_shipped_path_and_training_path_give_the_same_gradient(tmp_path):
    """The gradient by hooks on the exported model equals the one meta-training differentiates."""
    start, network, meta = module("start"), module("network"), module("meta")
    objective, tasks, prompts = module("objective"), module("tasks"), module("prompts")
    torch.manual_seed(0)
    model = start.skeleton(tiny=True).eval()
    model.to(torch.bfloat16).float()
    layout = network.mini_layout(model, rank=2, upper_layers=1)
    init = meta.MetaInit(layout, 0.5)
    state = {"model": model.state_dict(), "meta": init.state_dict()}
    state["layout"] = json.dumps(layout.to_dict())
    module("export").export(state, tmp_path, tiny=True)
    shipped = module("adapted").Adapted(tmp_path, "cpu")
    pieces = [prompts.Piece("A", "Some words."), prompts.Piece("", "Other and longer words here.")]
    docs = tasks.documents(shipped.prompts, pieces)
    decoder = network.Decoder(model, layout)
    ours = objective.gradients(decoder, init.rows(2), docs, None, second_order=False)
    torch.testing.assert_close(ours, shipped.gradients(pieces), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(shipped.alpha, init.alpha.detach())
    again = meta.MetaInit(layout, 1.0)
    again.load_file(tmp_path / "meta_init.safetensors")
    torch.testing.assert_close(again.theta, init.theta)
    torch.testing.assert_close(again.alpha, init.alpha)


def test_dropout_is_the_same_at_every_position_of_a_sequence():
    """Scaled to keep the mean; states picked from sequences share their sequence's mask."""
    dropped = module("network").dropped
    torch.manual_seed(0)
    ones = torch.ones(64, 5, 400)
    out = dropped(ones, 0.25)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    sequences = torch.tensor([2, 0, 2])
    picked = dropped(ones[sequences, 0], 0.25, sequences)
    assert torch.equal(picked[0], picked[2])
    assert not torch.equal(picked[0], picked[1])
    assert dropped(ones, 0.0) is ones


def test_a_mask_hides_nothing_of_the_answer():
    """Half of the prompts are touched, a share of their other tokens; rate 0 touches none."""
    prompts = module("prompts")
    tokenizer, made = module("start").base_tokenizer(), prompts.training_prompts()
    piece = prompts.Piece("Mill", "The old mill by the river burnt down in 1804 . " * 5)
    prompt, target = made.context("When did it burn down?", [piece], 80)[0], made.answer("1804")
    mask = prompts.Mask(tokenizer, 0.3, random.Random(0))
    shown = [mask(prompt, target) for _ in range(200)]
    hidden = [[i for i, j in zip(prompt, ids, strict=True) if i != j] for ids in shown]
    shares = [len(ids) / len(prompt) for ids in hidden if ids]
    assert 70 < len(shares) < 130
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.06)
    assert not {*target, *tokenizer.all_special_ids} & {i for ids in hidden for i in ids}
    assert prompts.Mask(tokenizer, 0.0, random.Random(0))(prompt, target) is prompt


def test_a_mean_of_checkpoints_is_of_weights_and_of_the_logarithms_of_alpha():
    """A share of 0 is the first, alpha's mean is geometric, other layouts are refused."""
    start, network, meta = module("start"), module("network"), module("meta")
    states = []
    for seed, alpha in ((0, 1.0), (1, 4.0)):
        torch.manual_seed(seed)
        model = start.skeleton(tiny=True)
        layout = network.mini_layout(model, rank=2, upper_layers=1)
        made = meta.MetaInit(layout, alpha)
        layout = json.dumps(layout.to_dict())
        states.append({"model": model.state_dict(), "meta": made.state_dict(), "layout": layout})
    first, second = states
    average = module("average").average
    same, mean = average(first, second, 0.0), average(first, second, 0.5)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(same["model"][name], first["model"][name])
    middle = (first["model"][name] + second["model"][name]) / 2
    torch.testing.assert_close(mean["model"][name], middle)
    made.load_state_dict(mean["meta"])
    torch.testing.assert_close(made.alpha, torch.full_like(made.alpha, 2.0))
    assert "meta" not in average({"model": first["model"]}, second, 0.5)
    with pytest.raises(SystemExit, match="different layouts"):
        average(first, second | {"layout": "{}"}, 0.5)


def test_sampled_vocabulary_estimates_the_full_loss():
    """A few thousand words stand for all: the loss over them is close to the full one."""
    start, network = module("start"), module("network")
    objective, tasks, vocabulary = module("objective"), module("tasks"), module("vocabulary")
    torch.manual_seed(0)
    model = start.skeleton(tiny=True).eval()
    decoder = network.Decoder(model, network.mini_layout(model, rank=2, upper_layers=1))
    batch = tasks.pad([[101, *range(1000, 1040)], [101, 5000, 6000]], [1, 1])
    hidden = objective.label_states(decoder, decoder.lower(batch.ids), batch, None)
    some = vocabulary.Vocabulary(batch.ids, model.config.vocab_size)
    assert len(some.ids) < 4000
    assert torch.equal(some.ids[some.local(batch.ids)], batch.ids)
    with torch.no_grad():
        sampled = objective.losses(decoder, hidden, batch, some).mean()
        full = objective.losses(decoder, hidden, batch).mean()
    assert abs(sampled - full) < 0.05


def test_a_text_that_leaves_no_room_for_its_prompt_is_learned_from_its_second_token():
    """A sequence's first token has nothing before it that could predict it."""
    prompts = module("prompts")
    pieces = [prompts.Piece("", "seen " * 600), prompts.Piece("", "seen")]
    docs = module("tasks").documents(prompts.training_prompts(), pieces)
    first = docs.places[docs.rows == 0]
    assert (docs.ids.shape[1], first.min(), len(first)) == (480, 0, 479)
    assert (docs.rows == 1).sum() == 2  # the word and the stop, none of the prompt


def test_numbers_survive_tokenizing_and_decoding():
    """Word pieces are joined up again where SQuAD's scores would notice."""
    tokenizer = module("start").base_tokenizer()
    for text in ("$1,500", "3.5%", "1990-91", "u.s. army", "beyonce's", "10:30"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text


def test_score_is_squads():
    """Case, punctuation and articles don't count; the best gold does."""
    scoring = module("scoring")
    assert scoring.score("The Eiffel tower.", ["eiffel Tower", "x"]) == (1.0, 1.0)
    assert scoring.score("tower", ["eiffel tower"]).f1 == pytest.approx(2 / 3)
