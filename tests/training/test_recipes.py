"""Recipes: files that a user can read, copy and change, and what they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapterdb.errors import InvalidInput
from adapterdb.training.presets import preset_names, preset_path, read_preset
from adapterdb.training.recipes import Recipe, get_recipe, with_weighting

# under these documents were stored by the first version: they still count as stored
FIRST = {
    "rg": "ce444931c6334f4cc3fc3fdcb93896f3529c2c482b9d4ed97ecb1bda9c7dd3fd",
    "prag": "5d1dd0b9baa1e6a41ba3179feedab4bd4b30136e4760ef0ea289a2795eeb0223",
    "gradient": "60cd339581d578024464df032614ed58db3695bbe0692330e970dbf2ec7d58a3",
}


@pytest.mark.parametrize("name", preset_names("delta"))
def test_every_shipped_recipe_is_one(name: str) -> None:
    recipe = get_recipe(name, has_meta_init=True)
    assert recipe.name == name
    assert recipe.about


def test_what_was_stored_by_the_first_version_still_counts() -> None:
    assert {n: get_recipe(n, has_meta_init=True).fingerprint for n in FIRST} == FIRST


def test_every_field_that_decides_is_in_the_fingerprint() -> None:
    rg = get_recipe("rg", has_meta_init=False)
    changes = {
        "sequences": "reading", "mask": "answer", "weighting": "salient", "normalize": "sum_to_len",
        "optimizer": "sgd", "lr": 1.0, "weight_decay": 1.0, "epochs": 7, "batch": 0, "start": "ft",
        "seed": 5, "max_tokens": 9, "produces": "gradient",
    }  # fmt: skip
    changed = [replace(rg, **{name: value}).fingerprint for name, value in changes.items()]
    assert len({rg.fingerprint, *changed}) == len(changes) + 1
    assert replace(rg, about="other words").fingerprint == rg.fingerprint


def test_auto_follows_the_base_model() -> None:
    assert get_recipe("auto", has_meta_init=True).name == "gradient"
    assert get_recipe("auto", has_meta_init=False).name == "rg"


def test_a_copied_and_changed_file_is_a_recipe_of_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    text = preset_path("rg").read_text(encoding="utf-8").replace("epochs = 3", "epochs = 9")
    mine.write_text(text + '\n[lora]\nrank = 4\ntargets = ["attn"]\n', encoding="utf-8")
    recipe = get_recipe(str(mine), has_meta_init=False)
    assert (recipe.name, recipe.epochs, recipe.lora.rank) == ("mine", 9, 4)
    assert recipe.lora.targets == ("attn",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind = 'delta'\nproduces = 'lora'\nepoch = 3", "unknown key 'epoch'"),
        ("kind = 'delta'\nproduces = 'hypernetwork'", "allowed are lora, gradient"),
        ("kind = 'delta'\nproduces = 'lora'\nlr = 'fast'", "expected float"),
        ("kind = 'delta'\nproduces = 'lora'\nepochs = 0", "epochs is 0"),
        ("kind = 'delta'\nproduces = 'lora'\nepochs = true", "expected int"),
        ("kind = 'delta'", "produces"),
        ("kind = 'lora'", "kind 'lora' is not one of delta"),
        ("kind = ", "not valid TOML"),
        ("kind = 'delta'\nproduces = 'lora'\nlora = 4", "expected a table"),
        ("kind = 'delta'\nproduces = 'lora'\n[lora]\nrank = 0", "rank 0 is outside"),
        (
            "kind = 'delta'\nproduces = 'lora'\nsequences = 'prag'\nweighting = 'tfidf'",
            "weighs the tokens of a passage",
        ),
    ],
)
def test_a_wrong_file_is_named_with_what_is_allowed(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=words):
        get_recipe(str(path), has_meta_init=False)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"'prga' is neither a file nor one of .*prag"):
        get_recipe("prga", has_meta_init=False)
    with pytest.raises(InvalidInput):
        get_recipe("../presets/rg", has_meta_init=False)


def test_a_preset_of_another_kind_is_refused() -> None:
    other = next(n for n in preset_names() if read_preset(n)["kind"] != "delta")
    with pytest.raises(InvalidInput, match="not for delta"):
        get_recipe(other, has_meta_init=False)


def test_weighting_is_one_of_four() -> None:
    rg = get_recipe("rg", has_meta_init=False)
    assert with_weighting(rg, "tfidf").weighting == "tfidf"
    with pytest.raises(InvalidInput, match="'tf' is not one of uniform"):
        with_weighting(rg, "tf")


def test_a_recipe_says_what_it_refuses() -> None:
    with pytest.raises(InvalidInput, match="recipe 'x': lr is -1"):
        Recipe("x", "lora", lr=-1.0)
