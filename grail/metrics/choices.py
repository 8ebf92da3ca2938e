"""Log-likelihoods of multiple-choice answers, many at once; each as if its choice stood alone after its context.

A question's choices share their context, which is most of the tokens: context and choices stand in one row, the context
once, and an attention mask keeps the choices from seeing one another. Where a model's own mask is not the plain causal
one (sliding windows, other kinds of layers), each choice has a row of its own.

Tokens are lm-eval's (0.4.13, `TemplateLM._encode_pair`, `HFLM._loglikelihood_tokens`): context and choice are encoded
together and cut at the length of the context encoded alone; what does not fit the model's context is cut from the left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.ability import Question
from grail.metrics.likelihood import TOKENS_AT_ONCE, Done, NonFiniteScore, label_bound, quiet
from grail.model.forward import head, precision
from grail.model.load import LoadedModel

DELIMITER = " "
"""Between a context and a choice."""

Place = tuple[int, int]
"""(question, choice), both from 0."""


class ChoiceTooLong(ValueError):
    """A choice that by itself fills the model's context."""

    def __init__(self, question_id: str, tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"a choice of question {question_id} has {tokens} tokens, more than the model's context of "
            f"{context_tokens}: leave the question out"
        )


class ChoiceWithoutToken(ValueError):
    """A choice that adds no token to its context: nothing of it could be scored."""

    def __init__(self, question_id: str) -> None:
        super().__init__(f"a choice of question {question_id} adds no token to its context: leave the question out")


@dataclass(frozen=True, slots=True)
class Row:
    """A context of one token or more and the choices that follow it, each apart; the last token of a choice is only
    predicted, never read."""

    context: tuple[int, ...] = field(repr=False)
    choices: tuple[tuple[int, ...], ...] = field(repr=False)
    places: tuple[Place, ...]

    @property
    def width(self) -> int:
        """Tokens that are read."""
        return len(self.context) + sum(len(choice) - 1 for choice in self.choices)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """`input_ids` and `position_ids` (B, T), padded on the right; `attention_mask` (B, T), or (B, 1, T, T) to be added
    to attention scores. For each of M label tokens: `labels` (M,), the row and time step whose logits predict it
    (`rows`, `positions`, (M,)), and the number of the choice it belongs to (`owners` (M,), choices counted over all
    rows)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    owners: torch.Tensor


@torch.no_grad()
def loglikelihoods(
    model: LoadedModel, questions: Sequence[Question], micro_batch: int, done: Done = quiet
) -> list[tuple[float, ...]]:
    """ln P(choice | context) in nats of every choice of every question, in their order; sums over the choice's tokens.

    At most `micro_batch` rows and TOKENS_AT_ONCE tokens stand in one pass. `done` is told how many more choices are
    scored.
    Raises ChoiceTooLong, ChoiceWithoutToken, NonFiniteScore.
    """
    shared = may_share(model.model.get_base_model().config)
    rows = [row for number, asked in enumerate(questions) for row in rows_of(model, asked, number, shared=shared)]
    found = [[math.nan] * len(question.choices) for question in questions]
    for chunk in together(rows, micro_batch):
        values = _scores(model, pack(chunk, model))
        for (question, choice), value in zip((p for row in chunk for p in row.places), values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteScore(questions[question].id)
            found[question][choice] = value
        done(len(values))
    return [tuple(values) for values in found]


def may_share(config: Any) -> bool:
    """Whether the choices of a question may stand in one row: every layer attends by the plain causal mask."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return kinds == {"full_attention"} and window is None


def encoded(model: LoadedModel, question: Question) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(context tokens, choice tokens) of every choice. Raises ChoiceTooLong, ChoiceWithoutToken."""
    context = question.context.rstrip()
    spaces = question.context[len(context) :]
    head_ids = model.tokenizer.encode(context, add_special_tokens=True)
    found = []
    for choice in question.choices:
        whole = model.tokenizer.encode(context + spaces + DELIMITER + choice, add_special_tokens=True)
        tokens = whole[len(head_ids) :]
        if not tokens:
            raise ChoiceWithoutToken(question.id)
        if len(tokens) > model.context_tokens:
            raise ChoiceTooLong(question.id, len(tokens), model.context_tokens)
        left = model.context_tokens + 1 - len(tokens)  # the choice's last token is predicted, not read
        found.append((tuple(head_ids[-left:]), tuple(tokens)))
    return found


def rows_of(model: LoadedModel, question: Question, number: int, *, shared: bool) -> list[Row]:
    """The rows of question `number`: one where its choices may share it and are left with the same context. Choices of
    a single token always share theirs, since nothing of them is read. Raises ChoiceTooLong, ChoiceWithoutToken."""
    groups: dict[tuple[tuple[int, ...], int | None], list[tuple[int, tuple[int, ...]]]] = {}
    for choice, (context, tokens) in enumerate(encoded(model, question)):
        alone = None if shared or len(tokens) == 1 else choice
        groups.setdefault((context, alone), []).append((choice, tokens))
    return [
        Row(context, tuple(tokens for _, tokens in members), tuple((number, choice) for choice, _ in members))
        for (context, _), members in groups.items()
    ]


def together(rows: Sequence[Row], micro_batch: int) -> Iterator[list[Row]]:
    """Chunks of similar width, longest first, so that what does not fit into memory fails at once."""
    chunk: list[Row] = []
    for row in sorted(rows, key=lambda row: (-row.width, row.places)):
        if chunk and (len(chunk) >= micro_batch or (len(chunk) + 1) * chunk[0].width > TOKENS_AT_ONCE):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def pack(rows: Sequence[Row], model: LoadedModel) -> PackedBatch:
    """Pad rows to the widest of them."""
    width = max(row.width for row in rows)
    ids = torch.full((len(rows), width), model.pad_id, dtype=torch.long)
    steps = torch.zeros((len(rows), width), dtype=torch.long)
    part = torch.full((len(rows), width), -1, dtype=torch.long)  # 0: context; c: the c-th choice; -1: padding
    labels: list[tuple[int, int, int, int]] = []  # label, row, position, owner
    owner = 0
    for number, row in enumerate(rows):
        start = end = len(row.context)
        ids[number, :start], steps[number, :start] = torch.tensor(row.context), torch.arange(start)
        part[number, :start] = 0
        for choice, tokens in enumerate(row.choices, start=1):
            read = len(tokens) - 1
            ids[number, end : end + read] = torch.tensor(tokens[:-1], dtype=torch.long)
            steps[number, end : end + read] = torch.arange(start, start + read)
            part[number, end : end + read] = choice
            predictors = [start - 1, *range(end, end + read)]
            labels += [(label, number, at, owner) for label, at in zip(tokens, predictors, strict=True)]
            owner, end = owner + 1, end + read
    columns = torch.tensor(labels, device=model.device).unbind(dim=1)
    several = any(sum(len(tokens) > 1 for tokens in row.choices) > 1 for row in rows)
    mask = _apart(part, model.precision) if several else (part >= 0).long()
    return PackedBatch(ids.to(model.device), steps.to(model.device), mask.to(model.device), *columns)


def _apart(part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, T, T) to add to attention scores: each token sees what came before it of its own part and the context."""
    width = part.shape[1]
    earlier = torch.ones((width, width), dtype=torch.bool).tril()  # (query, key)
    seen = earlier & ((part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None]))  # (B, query, key)
    hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return hidden[:, None]


def _scores(model: LoadedModel, batch: PackedBatch) -> list[float]:
    """The log-likelihood of every choice; logits of at most LOGIT_BYTES at once."""
    decoder = model.model.get_base_model()
    with precision(model):
        states = decoder.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state[batch.rows, batch.positions]  # (M, H)  # fmt: skip
    bound = label_bound(model)
    parts = [
        F.cross_entropy(head(model, hidden), labels, reduction="none").double()
        for hidden, labels in zip(torch.split(states, bound), torch.split(batch.labels, bound), strict=True)
    ]
    sums = torch.zeros(int(batch.owners[-1]) + 1, dtype=torch.float64, device=model.device)
    found: list[float] = sums.index_add(0, batch.owners, -torch.cat(parts)).tolist()
    return found
