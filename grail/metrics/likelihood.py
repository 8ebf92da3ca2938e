"""Teacher-forced and free answers of many examples, in batches of similar length and bounded memory.

No result depends on which other examples share its batch (to float tolerance): padding is masked, a free answer is cut
to its own example's length, and the model's own sampling habits (temperature, repetition penalty) are set aside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch, by_length, pad
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_hidden, head, precision, row_mean
from grail.model.load import LoadedModel
from grail.types import Example

LOGIT_BYTES = 64 * 2**20
"""Logits and their log-softmax, fp32, at once."""

TOKENS_AT_ONCE = 4_096
"""Tokens (rows x width) in one forward pass or one generation: bounds activations and the key-value cache."""

ANSWER_SLACK = 12
"""Tokens that a free answer may be longer than the true one."""

PASSAGE_GIVEN = 4
"""A bare passage is given its first 1/4 and asked to go on; only the rest is compared."""

Done = Callable[[int], None]


class NonFiniteScore(FloatingPointError):
    """A score is NaN or infinite: the adapter is broken, and no figure about it would mean anything."""

    def __init__(self, example_id: str) -> None:
        super().__init__(f"the score of example {example_id} is not finite: the adapter's weights are broken")


@dataclass(frozen=True, slots=True)
class Forced:
    """`accuracy` 0..1 and mean `nll` in nats over label positions (final eos included); `best`: the argmax tokens."""

    accuracy: float
    nll: float
    best: tuple[int, ...] = field(repr=False)


def quiet(_: int) -> None:
    """The default listener: says nothing."""


@torch.no_grad()
def forced(
    model: LoadedModel, examples: Sequence[TokenisedExample], micro_batch: int, done: Done = quiet
) -> dict[str, Forced]:
    """Teacher-forced scores by example id. `done` is told how many more are scored. Raises NonFiniteScore."""
    found: dict[str, Forced] = {}
    labels = label_bound(model)
    for chunk in bounded(by_length(examples, micro_batch)):
        batch = pad(chunk, model.pad_id, model.device)
        best, nll = _positions(model, batch, labels)
        accuracies = row_mean((best == batch.labels).double(), batch).tolist()
        means = row_mean(nll, batch).tolist()
        split = torch.split(best, [example.completion_length for example in chunk])
        for example, accuracy, mean, tokens in zip(chunk, accuracies, means, split, strict=True):
            if not math.isfinite(mean):
                raise NonFiniteScore(example.id)
            found[example.id] = Forced(accuracy, mean, tuple(tokens.tolist()))
        done(len(chunk))
    return found


def _positions(model: LoadedModel, batch: PaddedBatch, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(argmax (M,), NLL (M,) fp64) at label positions; logits of at most `labels` of them at once."""
    best, nll = [], []
    states = torch.split(completion_hidden(model, batch), labels)
    for hidden, wanted in zip(states, torch.split(batch.labels, labels), strict=True):
        logits = head(model, hidden)
        best.append(logits.argmax(dim=-1))
        nll.append(F.cross_entropy(logits, wanted, reduction="none").double())
    return torch.cat(best), torch.cat(nll)


def label_bound(model: LoadedModel) -> int:
    """Label positions whose logits (with their log-softmax) fit into LOGIT_BYTES."""
    return max(1, LOGIT_BYTES // (2 * 4 * int(model.model.get_base_model().config.vocab_size)))


def bounded(chunks: Iterator[list[TokenisedExample]]) -> Iterator[list[TokenisedExample]]:
    """The same chunks, split where they hold too many tokens at once; never an empty one."""
    for chunk in chunks:
        size = max(1, TOKENS_AT_ONCE // max(len(example.input_ids) for example in chunk))
        for start in range(0, len(chunk), size):
            yield chunk[start : start + size]


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is `given`, what it should go on with (`wanted`, no eos), how many tokens it `may` say, and the
    beginning of what it does say where that is known already (`said`)."""

    id: str
    given: tuple[int, ...] = field(repr=False)
    wanted: tuple[int, ...] = field(repr=False)
    may: int
    said: tuple[int, ...] = field(default=(), repr=False)

    @property
    def prefix(self) -> tuple[int, ...]:
        """What generation starts from."""
        return self.given + self.said

    @property
    def left(self) -> int:
        """Tokens that it may still say."""
        return self.may - len(self.said)


def question(example: TokenisedExample, is_passage: bool, context_tokens: int, max_new_tokens: int) -> Question:
    """The prompt and its completion; of a bare passage its first quarter and the rest, neither empty if it can be."""
    cut = example.prompt_length
    if is_passage:
        words = example.completion_length - 1
        cut += min(max(1, words // PASSAGE_GIVEN), words - 1)
    given, wanted = example.input_ids[:cut], example.input_ids[cut:-1]
    may = min(len(wanted) + ANSWER_SLACK, max_new_tokens, context_tokens - len(given))
    return Question(example.id, given, wanted, may)


def begun(asked: Question, known: Forced) -> Question:
    """The question with the beginning of its greedy answer, read off the teacher-forced pass.

    While the teacher-forced argmax equals the true text, the two passes see the same prefix, so that the argmax is the
    greedy token; so is the first that differs. What the model knows by heart need not be generated at all.
    """
    best = known.best[-len(asked.wanted) - 1 :]  # argmax at each wanted token, and after the last
    pairs = enumerate(zip(best[:-1], asked.wanted, strict=True))
    same = next((place for place, (one, other) in pairs if one != other), len(asked.wanted))
    return replace(asked, said=best[: min(same + 1, asked.may)])


def is_said(asked: Question, eos: int) -> bool:
    """Whether nothing is left to generate."""
    return asked.left <= 0 or (bool(asked.said) and asked.said[-1] == eos)


@torch.no_grad()
def free_answers(
    model: LoadedModel,
    examples: Sequence[Example],
    tokenised: Sequence[TokenisedExample],
    micro_batch: int,
    max_new_tokens: int,
    done: Done = quiet,
    known: Mapping[str, Forced] | None = None,
) -> dict[str, tuple[str, str]]:
    """(greedy answer, text it should have been) of each example, by id: what a user sees. With the teacher-forced
    scores `known` under the same network, only what they do not tell is generated."""
    eos = model.tokenizer.eos_token_id
    questions = [
        question(tokens, not example.prompt, model.context_tokens, max_new_tokens)
        for example, tokens in zip(examples, tokenised, strict=True)
    ]
    if known is not None:
        questions = [begun(asked, known[asked.id]) for asked in questions]
    answers = {asked.id: list(asked.said) for asked in questions if is_said(asked, eos)}
    done(len(answers))
    for chunk in together([q for q in questions if q.id not in answers], micro_batch, model.context_tokens):
        for asked, rest in zip(chunk, greedy(model, chunk), strict=True):
            answers[asked.id] = [*asked.said, *rest]
        done(len(chunk))
    return {asked.id: _words(model, answers[asked.id], asked.wanted) for asked in questions}


def _words(model: LoadedModel, said: Sequence[int], wanted: Sequence[int]) -> tuple[str, str]:
    """Both as text, the answer up to its eos."""
    eos = model.tokenizer.eos_token_id
    whole = list(said)
    upto = whole[: whole.index(eos)] if eos in whole else whole
    answer, true = (model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in (upto, wanted))
    return answer, true


def together(questions: Sequence[Question], size: int, context_tokens: int) -> Iterator[list[Question]]:
    """Chunks of similar answer length whose padded width fits the model's context and TOKENS_AT_ONCE."""
    chunk: list[Question] = []
    for asked in sorted(questions, key=lambda q: (q.left, len(q.prefix), q.id)):
        grown = [*chunk, asked]
        width = max(len(q.prefix) for q in grown) + max(q.left for q in grown)
        if chunk and (len(grown) > size or width > context_tokens or width * len(grown) > TOKENS_AT_ONCE):
            yield chunk
            grown = [asked]
        chunk = grown
    if chunk:
        yield chunk


def greedy(model: LoadedModel, chunk: Sequence[Question]) -> list[list[int]]:
    """Greedy continuations up to the eos, each at most the tokens that are `left` to it. Prompts are padded on the
    left."""
    from transformers import GenerationConfig

    width = max(len(asked.prefix) for asked in chunk)
    ids = torch.full((len(chunk), width), model.pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, asked in enumerate(chunk):
        ids[row, width - len(asked.prefix) :] = torch.tensor(asked.prefix)
        mask[row, width - len(asked.prefix) :] = 1
    eos = model.tokenizer.eos_token_id
    config = GenerationConfig(
        max_new_tokens=max(asked.left for asked in chunk), do_sample=False, num_beams=1,
        eos_token_id=eos, pad_token_id=model.pad_id, use_cache=True,
    )  # fmt: skip
    with precision(model), _plain_generation(model, config):
        out = model.model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
    said: list[list[int]] = out[:, width:].tolist()
    cut = [tokens[: asked.left] for tokens, asked in zip(said, chunk, strict=True)]
    return [tokens[: tokens.index(eos)] if eos in tokens else tokens for tokens in cut]


@contextmanager
def _plain_generation(model: LoadedModel, config: Any) -> Iterator[None]:
    """Nothing but `config` decides: transformers fills what it leaves open from the model's own generation settings,
    and a repetition penalty there would make an answer look forgotten that is not."""
    base = model.model.get_base_model()
    own, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = own
