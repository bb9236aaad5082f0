"""Tiny random base models with a byte tokenizer, and fresh homes: no network, one thread."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LANCE_LOG", "error")

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():  # Triton reads it when it is first imported, by whomever
    os.environ.setdefault("TRITON_INTERPRET", "1")


def byte_tokenizer() -> Any:
    """A fast tokenizer whose tokens are the 256 bytes and three special ones."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    vocab = {token: i for i, token in enumerate([*special, *alphabet])}
    inner = Tokenizer(BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=512,
    )


def tiny_model(kind: str) -> Any:
    """A random Llama-, GPT-2- or BERT-like causal model with hidden size 32 and two layers."""
    import transformers as t

    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "llama":
        config = t.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, **sizes,
        )  # fmt: skip
        return t.LlamaForCausalLM(config)
    if kind == "gpt2":
        config = t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **sizes)
        return t.GPT2LMHeadModel(config)
    config = t.BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, is_decoder=True, **sizes,
    )  # fmt: skip
    return t.BertLMHeadModel(config)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind of model to a folder that holds one, with tokenizer; made once per kind."""
    made: dict[str, Path] = {}

    def make(kind: str = "llama") -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{kind}")
            tiny_model(kind).save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
            made[kind] = folder
        return made[kind]

    return make


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own, to be mounted again with other options."""
    place = tmp_path / "mounted"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("only root may mount a file system")

    def remount(mode: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{mode}", place], check=True)
        return place

    yield remount
    subprocess.run(["umount", "-l", place], check=True)
