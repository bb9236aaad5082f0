"""Shortcuts change how much is computed, never what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode

from adapterdb.adapted_model import AdaptedModel
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.training import bank
from adapterdb.training.differentiable import passage_losses, row_gradients
from adapterdb.training.objective import TokenSequence
from adapterdb.training.recipes import Recipe
from adapterdb.training.shortcuts import shortcuts_of

WORDS = {"vocab_size": 120, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GATED = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
PLAIN = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GATED),
    "llama-eager": ("LlamaConfig", {**GATED, "attn_implementation": "eager"}),
    "qwen3": ("Qwen3Config", {**GATED, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**GATED, "head_dim": 8}),
    "mistral, short window": ("MistralConfig", {**GATED, "sliding_window": 8}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}),
    "bert": ("BertConfig", {**PLAIN, "intermediate_size": 48, "is_decoder": True}),
    "opt": ("OPTConfig", {**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 4, "n_head": 4}),
}
GENERATOR = torch.Generator().manual_seed(3)


def some(n: int) -> tuple[int, ...]:
    """Random tokens."""
    return tuple(torch.randint(3, 120, (n,), generator=GENERATOR).tolist())


def passage(shared: int, *lengths: int) -> list[TokenSequence]:
    """Sequences with one beginning, labels at their ends."""
    prefix = some(shared)
    return [TokenSequence(prefix + some(n), shared + 1) for n in lengths]


DATA = [passage(40, 4, 7, 5), passage(30, 6, 3, 9), passage(20, 4, 4, 4)]


def adapted_model(family: str, layers: str = "upper-half") -> AdaptedModel:
    """A tiny random model of a family, its MLP and attention adapted."""
    name, sizes = MODELS[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**sizes, **WORDS})
    attention = sizes.get("attn_implementation")
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    linears = []
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            linears.append((path, module.in_features, module.out_features))
        elif type(module).__name__ == "Conv1D":
            linears.append((path, *module.weight.shape))
    return AdaptedModel(model, plan_layout(LoraSpec(2, targets=("all",), layers=layers), linears))


@pytest.mark.parametrize("layers", ["all", "upper-half"])
@pytest.mark.parametrize("family", MODELS)
def test_losses_and_gradients_are_those_of_the_plain_forward(family: str, layers: str) -> None:
    """Of every family, to rounding, whichever shortcuts it allows."""
    adapted = adapted_model(family, layers)
    adapted.model.double()
    rows = torch.randn(3, adapted.layout.size, generator=torch.Generator().manual_seed(2)) * 0.1
    rows = rows.double()
    tolerance = 1e-11 if family in ("gpt2", "bert", "opt", "bloom") else 1e-5  # float32 norms
    loss, gradient = bank.gradients(adapted, rows, DATA)
    torch.testing.assert_close(loss, passage_losses(adapted, rows, DATA).detach())
    torch.testing.assert_close(loss, bank.losses(adapted, rows, DATA))
    want = row_gradients(adapted, rows.clone().requires_grad_(), DATA, create_graph=False)
    assert ((gradient - want).norm(dim=-1) < tolerance * want.norm(dim=-1)).all()


@pytest.mark.parametrize("family", MODELS)
def test_what_a_family_allows(family: str) -> None:
    """All allow beginning above the lower layers and cutting the last; ALiBi reads no trees."""
    shortcuts = shortcuts_of(adapted_model(family))
    assert shortcuts.cuts
    assert shortcuts.resumes
    trees = {"bloom": 0, "mistral, short window": 8, "gemma2": 4096}
    assert shortcuts.widest_tree == trees.get(family, 2**31)


def test_a_model_that_ignores_positions_gets_no_trees() -> None:
    """A body that takes positions and does not use them is found out by the trial."""
    adapted = adapted_model("gpt2")
    body: Any = adapted.model.get_decoder()  # type: ignore[operator]
    forward = body.forward

    def heedless(position_ids: Any = None, **given: Any) -> Any:
        return forward(**given)

    body.forward = heedless
    assert shortcuts_of(adapted).widest_tree == 0
    assert shortcuts_of(adapted).cuts


@pytest.mark.parametrize("batch", [0, 1])
def test_lower_layers_run_once(batch: int) -> None:
    """Three epochs and both losses cost one pass of the layers below the deltas."""
    adapted = adapted_model("llama")
    shortcuts_of(adapted)
    ran = {0: 0, 3: 0}
    for index in ran:
        layer = adapted.model.get_submodule(f"model.layers.{index}.mlp")
        layer.register_forward_hook(
            lambda *_, index=index: ran.update({index: ran[index] + 1})  # type: ignore[misc]
        )
    recipe = Recipe("mine", "lora", sequences="prag", epochs=3, batch=batch)
    start = bank.Start(torch.randn(adapted.layout.size) * 0.1, torch.zeros(adapted.layout.size))
    bank.fit_sequences(adapted, DATA, recipe, start)
    assert ran == {0: 1, 3: {0: 3 + 1, 1: 1 + 9 + 1}[batch]}


def test_last_layer_runs_at_labels_only() -> None:
    """The last layer's MLP is multiplied at labelled places only; other layers' everywhere."""
    adapted = adapted_model("llama")
    shortcuts_of(adapted)
    seen = {}
    for index in (2, 3):
        linear: Any = adapted.model.get_submodule(f"model.layers.{index}.mlp.up_proj")

        def forward(x: Any, index: int = index, linear: Any = linear) -> Any:
            seen[index] = x.numel() // x.shape[-1]
            return torch.nn.functional.linear(x, linear.weight)

        linear.forward = forward
    bank.losses(adapted, torch.zeros(3, adapted.layout.size), DATA)
    assert seen[2] == 3 * (40 + 4 + 7 + 5)
    assert seen[3] == sum(len(s.ids) - s.loss_from for sequences in DATA for s in sequences)


def test_last_attention_is_asked_by_labels_only() -> None:
    """The last layer's attention has as many queries as the fullest row has labelled places."""
    adapted = adapted_model("llama")
    shortcuts_of(adapted)
    asked = []

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                asked.append(args[0].shape[-2])
            return func(*args, **(kwargs or {}))

    with Watching():
        bank.losses(adapted, torch.zeros(3, adapted.layout.size), DATA)
    assert asked == [56, 56, 56, (6 - 1) + (3 - 1) + (9 - 1)]


def test_the_model_is_left_as_it_was() -> None:
    """After fitting no module has another forward, and logits are the same bit for bit."""
    adapted = adapted_model("llama")
    ids = torch.tensor([DATA[0][0].ids])
    before = adapted.model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        bank.gradients(adapted, torch.zeros(3, adapted.layout.size), DATA)
    assert not [name for name, m in adapted.model.named_modules() if "forward" in vars(m)]
    assert torch.equal(adapted.model(ids).logits, before)
