"""Passages: the offset invariant, the token bound, and time on hostile texts."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from adapterdb.config import ChunkConfig
from adapterdb.errors import InvalidInput, Rejected
from adapterdb.ingest.chunking import Chunker, chunk
from adapterdb.records import Passage

CONFIG = ChunkConfig(tokens=16)


def byte_tokenizer() -> Tokenizer:
    """One token per byte, with truncation, padding and special tokens on to be ignored."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: i for i, word in enumerate([*alphabet, "[CLS]"])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocab["[CLS]"])]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """One token per word or sign, however long the word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


BYTES, WORDS = byte_tokenizer(), word_tokenizer()


def assert_passages(passages: list[Passage], text: str, config: ChunkConfig) -> None:
    """Offsets are exact, counts bounded, order kept, and only whitespace lies between passages."""
    covered = 0
    for i, passage in enumerate(passages):
        assert passage.ordinal == i
        assert passage.text == text[passage.start : passage.end]
        assert passage.text.strip()
        assert 1 <= passage.tokens <= config.tokens
        if config.overlap == 0:
            assert passage.start >= covered
        assert not text[covered : max(covered, passage.start)].strip()
        covered = passage.end
    assert not text[covered:].strip()


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        st.one_of(
            st.sampled_from("ab é漢👩‍👩‍👧\u0301\n\r\t.!? -#|"),
            st.characters(exclude_categories=["Cs"]),
        ),
        max_size=400,
    ),
    st.sampled_from([0, 4]),
)
def test_every_character_that_shows_is_in_a_passage(text: str, overlap: int) -> None:
    """For any text, passages are slices of it, within the budget, and leave out only whitespace."""
    config = ChunkConfig(tokens=16, overlap=overlap)
    assert_passages(chunk(text, BYTES, config), text, config)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab é漢.", min_size=1, max_size=40), max_size=80))
def test_window_borders_leave_no_trace(words: list[str]) -> None:
    """Texts longer than a window keep the invariant, also where words count as single tokens."""
    text = "\n".join(words) * 3
    assert_passages(chunk(text, WORDS, CONFIG), text, CONFIG)


def test_settings_of_the_tokenizer_do_not_count() -> None:
    """Truncation, padding and special tokens of the caller's tokenizer change no count."""
    passages = chunk("abcdefgh ijkl", BYTES, CONFIG)
    assert [(p.text, p.tokens) for p in passages] == [("abcdefgh ijkl", 13)]
    assert BYTES.truncation is not None


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000\u2028"])
def test_no_text_no_passage(text: str) -> None:
    """A text without visible characters has no passages."""
    assert chunk(text, BYTES, CONFIG) == []


def test_cuts_where_the_text_pauses() -> None:
    """Paragraphs are preferred to lines, and lines to words."""
    text = "one two\nthree\n\nfour five six"
    assert [p.text for p in chunk(text, BYTES, CONFIG)] == ["one two\nthree", "four five six"]


def test_overlap_repeats_the_end_of_the_passage_before() -> None:
    """With an overlap, passages share text, and offsets say so."""
    text = " ".join(f"w{i}" for i in range(200))
    config = ChunkConfig(tokens=16, overlap=6)
    passages = chunk(text, WORDS, config)
    assert_passages(passages, text, config)
    assert all(a.end > b.start for a, b in pairwise(passages))


def test_short_last_passage_joins_the_one_before_if_it_fits() -> None:
    """A tail under an eighth of the budget is merged when the sum fits, and kept when not."""
    config = ChunkConfig(tokens=32)
    fits = "a b c d\n\n\ne f g h\n\ni"
    assert [p.text for p in chunk("x " * 30 + "\n\ny", WORDS, config)] == ["x " * 30 + "\n\ny"]
    assert chunk(fits, WORDS, config)[-1].end == len(fits)
    full = "x " * 32 + "\n\ny"
    assert [p.tokens for p in chunk(full, WORDS, config)] == [32, 1]


def test_counting_function_stands_in_for_a_tokenizer() -> None:
    """A function of a text to its number of tokens is enough."""
    text = "alpha beta gamma delta " * 40
    passages = chunk(text, lambda piece: len(piece.split()), CONFIG)
    assert_passages(passages, text, CONFIG)
    assert max(p.tokens for p in passages) == 16


def test_what_can_not_count_is_refused() -> None:
    """Neither a thing that is no tokenizer nor one that can't fit a character is accepted."""
    with pytest.raises(InvalidInput, match="no tokenizer"):
        chunk("text", 5, CONFIG)
    with pytest.raises(InvalidInput, match="99 tokens"):
        chunk("text", lambda piece: 99, CONFIG)


def test_half_a_surrogate_pair_is_rejected() -> None:
    """Text that is not Unicode gets a code, not a crash of the splitter."""
    with pytest.raises(Rejected) as caught:
        chunk("a\ud800", BYTES, CONFIG)
    assert caught.value.code == "bad_encoding"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("a" * 50_000, BYTES),
        ("a" * 100_000, WORDS),
        ("\n" * 100_000 + "a", BYTES),
        ("word, " * 30_000, WORDS),
        ("a\n\n\nb\nc\n\n" * 10_000, WORDS),
    ],
    ids=["word", "unknown-word", "newlines", "one-line", "short-paragraphs"],
)
def test_hostile_texts_take_bounded_time(text: str, tokenizer: Tokenizer) -> None:
    """Endless words, lines and blank runs are cut in seconds, with every character kept."""
    config = ChunkConfig(tokens=160)
    start = time.monotonic()
    passages = chunk(text, tokenizer, config)
    assert time.monotonic() - start < 10
    assert_passages(passages, text, config)
    assert max(len(p.text) for p in passages) <= Chunker(tokenizer, config).window


def test_equal_texts_are_cut_alike() -> None:
    """The same text and settings give the same passages."""
    text = "Some words. And more words, of which there are many.\n\n" * 50
    assert chunk(text, BYTES, CONFIG) == Chunker(BYTES, CONFIG).split(text)
