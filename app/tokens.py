"""Counting tokens without the learning stack, exactly as grail.data.tokenise lays an example out:
template filled with the prompt (or one bos without a prompt) + completion + eos, each part tokenised on its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from app.errors import Unavailable

KNOWN_CUTTERS = {"ByteLevel", "Digits", "Split", "Whitespace", "WhitespaceSplit", "Punctuation"}
SPECIAL_TOKENS = 2
"""One bos or none, one eos."""


class TokeniserMissing(Unavailable):
    """The base model's tokenizer.json is not readable: no text can be checked against the context."""

    type = "tokeniser-missing"
    title = "The served model's tokenizer can not be read"
    mend = "Nothing was stored. An operator has to restore tokenizer.json beside the base model."


@lru_cache(maxsize=4)
def _load(path: str, modified_ns: int) -> Tokenizer:
    """A tokenizer file, once per version of it. `modified_ns` is part of the key only."""
    del modified_ns
    tokenizer = Tokenizer.from_buffer(Path(path).read_bytes())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_tokeniser(base_model_path: str) -> Tokenizer:
    """The tokenizer beside a base model's weights. Raises TokeniserMissing."""
    path = f"{base_model_path}/tokenizer.json"  # for each request that comes in: no Path is made of it
    try:
        return _load(path, os.stat(path).st_mtime_ns)
    except (OSError, ValueError) as error:
        raise TokeniserMissing(
            f"no readable tokenizer.json beside the base model ({type(error).__name__}): an operator has to restore it"
        ) from None


@lru_cache(maxsize=4)
def _most_tokens_per_byte(tokenizer: Tokenizer) -> int | None:
    """At most how many tokens a byte of UTF-8 can become, where that is certain: byte-pair encoding without a
    normaliser (it might write more than was there), cut into words that may each get one space in front. None for any
    other kind."""
    form = json.loads(tokenizer.to_str())
    cutter = form["pre_tokenizer"] or {}
    cutters = cutter.get("pretokenizers", [cutter])
    known = all(part.get("type") in KNOWN_CUTTERS for part in cutters)
    plain = form["normalizer"] is None and form["model"]["type"] == "BPE"
    return 2 if plain and known and not form["model"].get("continuing_subword_prefix") else None


def surely_fit(
    tokenizer: Tokenizer, template: str, pairs: Sequence[tuple[str, str]], context_tokens: int
) -> bool:
    """Whether texts are so short that no count of their tokens could be over `context_tokens`: most are."""
    per_byte = _most_tokens_per_byte(tokenizer)
    if per_byte is None:
        return False
    around = len(template.encode()) + SPECIAL_TOKENS
    return all(
        per_byte * (around + len(prompt.encode()) * template.count("{prompt}") + len(completion.encode()))
        <= context_tokens
        for prompt, completion in pairs
    )


def count_tokens(tokenizer: Tokenizer, template: str, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Tokens of each (prompt, completion); an empty prompt is a bare passage. One call tokenises all of them."""
    contexts = [template.replace("{prompt}", prompt) if prompt else "" for prompt, _ in pairs]
    texts = [*contexts, *(completion for _, completion in pairs)]
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    half = len(pairs)
    # 1 for the final eos; a bare passage stands after one bos instead of a prompt.
    return [(lengths[i] if contexts[i] else 1) + lengths[half + i] + 1 for i in range(half)]
