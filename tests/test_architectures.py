"""The same hooks, head split and decode loop on other families of causal models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from adapterdb.adapted_model import AdaptedModel
from adapterdb.answers import Generation
from adapterdb.engine.decode import decode
from adapterdb.engine.stops import StopRules
from adapterdb.layout import LoraSpec, plan_layout
from adapterdb.training.head import SplitModel

WORDS = {"vocab_size": 120, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GATED = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, tuple[str, dict[str, int], tuple[int, int]]] = {
    "qwen3": ("Qwen3Config", {**GATED, "head_dim": 8}, (6, 8)),
    "mistral": ("MistralConfig", GATED, (6, 8)),
    "gemma2": ("Gemma2Config", {**GATED, "head_dim": 8}, (6, 8)),
    "phi3": ("Phi3Config", GATED, (4, 4)),
    "opt": (
        "OPTConfig",
        {**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
        (4, 8),
    ),
    "gpt-neox": ("GPTNeoXConfig", {**PLAIN, "intermediate_size": 48}, (4, 4)),
    "cohere": ("CohereConfig", GATED, (6, 8)),
    "falcon": ("FalconConfig", PLAIN, (4, 4)),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, (4, 4)),
}


def model_of(family: str) -> Any:
    """A tiny random model of a family."""
    name, sizes, _ = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**sizes, **WORDS)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_can_be_adapted_trained_and_decoded(family: str) -> None:
    """Rows act on their own batch rows only, the head gives the model's logits, decode agrees."""
    model = model_of(family)
    linears = [
        (name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    mlp, attention = (
        len(plan_layout(LoraSpec(2, targets=(target,)), linears).sites)
        for target in ("mlp", "attn")
    )
    layout = plan_layout(LoraSpec(2, targets=("all",)), linears)
    assert (mlp, attention) == FAMILIES[family][2]
    assert len(layout.sites) == mlp + attention
    adapted = AdaptedModel(model, layout)
    ids = torch.randint(3, 120, (2, 9), generator=torch.Generator().manual_seed(1))
    rows = torch.randn(2, layout.size, generator=torch.Generator().manual_seed(2)) * 0.3
    plain = model(ids).logits
    with adapted.using_rows(rows):
        both = model(ids).logits
        split = SplitModel(model)
        hidden = split.hidden_states(ids, torch.ones_like(ids))
        headed = split.logits(hidden.reshape(-1, hidden.shape[-1])).view(both.shape)
    assert (both - plain).abs().max() > 1e-3 * plain.abs().max()
    torch.testing.assert_close(headed, both)
    for i in range(2):
        with adapted.using_rows(rows[i : i + 1]):
            torch.testing.assert_close(model(ids[i : i + 1]).logits, both[i : i + 1])
    torch.testing.assert_close(model(ids).logits, plain)
    prompts = [[1, 40, 41, 42, 43], [1, 90]]
    never = StopRules(frozenset(), (), str)
    steps = list(decode(model, prompts, Generation(), never, 6))
    for row, prompt in enumerate(prompts):
        given = torch.tensor([prompt])
        said = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=6,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        ours = [one.token for step in steps if (one := step[row])]
        assert ours == said[0, len(prompt) :].tolist()
