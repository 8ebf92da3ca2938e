"""The service counts the same tokens as the library lays out, without importing the learning stack."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from app.tokens import TokeniserMissing, count_tokens, load_tokeniser
from grail.data.tokenise import tokenise
from grail.types import Example, Segment
from tests.fixtures.served import TEMPLATE, write_base


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BYTES = byte_tokenizer()


def like_the_library(tokenizer: Tokenizer):
    return SimpleNamespace(
        bos_token_id=1,
        eos_token_id=2,
        encode=lambda text, add_special_tokens: tokenizer.encode(text, add_special_tokens=add_special_tokens).ids,
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(texts, texts.filter(str.strip)), max_size=4))
def test_counts_agree_with_the_library(pairs):
    twin = [
        len(
            tokenise(
                Example("x", "privacy", Segment.FORGET, "s", *pair), like_the_library(BYTES), TEMPLATE, 10**6
            ).input_ids
        )
        for pair in pairs
    ]
    assert count_tokens(BYTES, TEMPLATE, pairs) == twin


def test_a_passage_stands_after_one_token_and_before_one(tmp_path: Path):
    tokenizer = load_tokeniser(str(write_base(tmp_path)))
    assert count_tokens(tokenizer, TEMPLATE, [("", "one two three"), ("who", "me")]) == [5, 7]


def test_a_replaced_file_is_read_again(tmp_path: Path):
    write_base(tmp_path)
    before = load_tokeniser(str(tmp_path))
    assert load_tokeniser(str(tmp_path)) is before
    BYTES.save(str(tmp_path / "tokenizer.json"))
    os.utime(tmp_path / "tokenizer.json", ns=(1, 1))
    assert count_tokens(load_tokeniser(str(tmp_path)), TEMPLATE, [("", "abcd")]) == [6]


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"{}"])
def test_an_unreadable_tokenizer_is_a_clear_error(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokeniserMissing, match="operator"):
        load_tokeniser(str(tmp_path))
