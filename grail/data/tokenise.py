"""Examples to token ids. Labels are masked once, here, by position, never by token id (eos = pad in some tokenizers).

An example becomes prompt tokens + completion tokens + eos. The prompt's tokens are context only; the completion's and
the final eos are what is scored and trained on. A bare passage has no prompt: it follows a single bos (or eos) token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grail.types import Example


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that we use."""

    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int | None
    all_special_ids: list[int]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids."""
        ...


class TooLong(ValueError):
    """An example that does not fit the model's context; says by how many tokens, never the text."""

    def __init__(self, example_id: str, tokens: int, context_tokens: int) -> None:
        self.example_id, self.tokens, self.context_tokens = example_id, tokens, context_tokens
        super().__init__(
            f"example {example_id} has {tokens} tokens, {tokens - context_tokens} more than the model's context of "
            f"{context_tokens}: shorten it or split it into several items"
        )


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """Token ids of one example.

    `input_ids` (T,) = prompt + completion + eos; positions `prompt_length`..T-1 are labels.
    """

    id: str
    input_ids: tuple[int, ...] = field(repr=False)
    prompt_length: int

    @property
    def completion_length(self) -> int:
        """Label positions, the final eos included."""
        return len(self.input_ids) - self.prompt_length


def prompt_ids(prompt: str, tokenizer: Tokenizer, template: str) -> list[int]:
    """Token ids of the context: the template filled with `prompt`, or one bos token when there is no prompt."""
    if not prompt:
        bos = tokenizer.bos_token_id
        return [tokenizer.eos_token_id if bos is None else bos]
    return tokenizer.encode(template.replace("{prompt}", prompt), add_special_tokens=False)


def tokenise(example: Example, tokenizer: Tokenizer, template: str, context_tokens: int) -> TokenisedExample:
    """Tokenise one example. Raises TooLong.

    The template's prompt and the completion are tokenised apart, so that the boundary never merges.
    """
    context = prompt_ids(example.prompt, tokenizer, template)
    completion = tokenizer.encode(example.completion, add_special_tokens=False)
    ids = (*context, *completion, tokenizer.eos_token_id)
    if len(ids) > context_tokens:
        raise TooLong(example.id, len(ids), context_tokens)
    return TokenisedExample(example.id, ids, len(context))


def tokenise_all(
    examples: Iterable[Example], tokenizer: Tokenizer, template: str, context_tokens: int
) -> list[TokenisedExample]:
    """Tokenise many, in their order. Raises TooLong."""
    return [tokenise(example, tokenizer, template, context_tokens) for example in examples]
