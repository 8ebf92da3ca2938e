"""Per-example adapter gradients in one batched backward pass, and the two scores made of them (paper eq. 3).

Both LoRA maps are plain linear: y = W x, so the gradient of one row's loss with respect to W is the outer product of
what flowed back and what flowed in, summed over time:
dW_b[o, i] = sum_t g[b, t, o] x[b, t, i]. One batched pass therefore
gives every example's own gradient; N single passes are the oracle that tests compare it with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from grail.config import UnlearnConfig
from grail.data.batches import by_length, pad
from grail.data.tokenise import TokenisedExample
from grail.model.adapter import adapter_parameters
from grail.model.forward import example_nll
from grail.model.lean import lean_of
from grail.model.load import LoadedModel
from grail.types import Domain, Progress, Report, Segment, ignore_progress

SetKey = tuple[Domain, Segment]
Sink = Callable[[str, torch.Tensor], None]

NO_SPREAD = 1e-12
"""A mean-gradient tensor with a smaller standard deviation contributes nothing to `zscore`."""


@dataclass(frozen=True, slots=True)
class GradientStats:
    """`scores[(domain, segment)][tensor]` has the adapter tensor's shape, fp32, >= 0; `counts` are examples."""

    scores: dict[SetKey, dict[str, torch.Tensor]] = field(repr=False)
    counts: dict[SetKey, int]


def corrupt(example: TokenisedExample, vocabulary: torch.Tensor, generator: torch.Generator) -> TokenisedExample:
    """Replace half of the completion's tokens: floor(T/2) draws with replacement over its positions, eos excluded.

    `vocabulary` (V',) holds the ids to draw from. The corrupted sequence is input and label alike.
    """
    length = example.completion_length - 1  # without the final eos
    draws = length // 2
    ids = list(example.input_ids)
    places = torch.randint(length, (draws,), generator=generator).tolist() if draws else []
    tokens = vocabulary[torch.randint(len(vocabulary), (draws,), generator=generator)].tolist() if draws else []
    for place, token in zip(places, tokens, strict=True):
        ids[example.prompt_length + place] = token
    return TokenisedExample(example.id, tuple(ids), example.prompt_length)


def ordinary_tokens(model: LoadedModel) -> torch.Tensor:
    """Ids (V',) of the vocabulary that are not special."""
    size = int(model.model.config.vocab_size)
    keep = torch.ones(size, dtype=torch.bool)
    keep[[token for token in model.tokenizer.all_special_ids if token < size]] = False
    return keep.nonzero().flatten()


class NotPerExample(ValueError):
    """An adapted layer does not see whole sequences, row by row: examples can not be told apart there."""


@contextmanager
def per_example_gradients(model: Any, draws: int, sink: Sink) -> Iterator[None]:
    """While open, every backward pass hands `sink(name, gradients)` the per-example gradients (N, out, in) of each
    LoRA matrix. Rows of a batch are grouped by `draws`: rows n*draws..(n+1)*draws-1 belong to example n.

    Raises NotPerExample."""
    owners = {parameter: name for name, parameter in adapter_parameters(model).items()}
    handles = []

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def forward(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            flowed_in = inputs[0].detach()  # (N*D, T, in)
            if flowed_in.dim() != 3:
                raise NotPerExample(f"{name} does not see whole sequences: leave its layer out of the adapter")

            def backward(flowed_back: torch.Tensor) -> None:  # (N*D, T, out)
                shape = (flowed_back.shape[0] // draws, -1)
                signal = flowed_back.reshape(*shape, flowed_back.shape[-1])  # (N, D*T, out)
                activation = flowed_in.to(signal.dtype).reshape(*shape, flowed_in.shape[-1])  # (N, D*T, in)
                sink(name, torch.bmm(signal.transpose(1, 2), activation).float())  # (N, out, in)

            output.register_hook(backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped

        return forward

    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight in owners:
            handles.append(module.register_forward_hook(watch(owners[weight])))
    lean = lean_of(model)
    try:
        with lean.watched(draws, sink) if lean else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


def set_scores(
    model: LoadedModel,
    examples: Sequence[TokenisedExample],
    config: UnlearnConfig,
    generator: torch.Generator,
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, torch.Tensor]:
    """Scores of one set, each the shape of its tensor: mean squared gradient, or |z| of the mean gradient."""
    parameters = adapter_parameters(model.model)
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    squared = config.score == "squared"

    def add(name: str, gradients: torch.Tensor) -> None:
        total[name] += (gradients.square() if squared else gradients).sum(dim=0)

    vocabulary = ordinary_tokens(model)
    corrupted = {e.id: [corrupt(e, vocabulary, generator) for _ in range(config.draws)] for e in examples}
    with per_example_gradients(model.model, config.draws, add):
        for chunk in by_length(examples, max(1, config.micro_batch // config.draws)):
            rows = [draw for example in chunk for draw in corrupted[example.id]]
            batch = pad(rows, model.pad_id, model.device)
            loss = example_nll(model, batch).sum() / config.draws
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    "localisation met a loss that is not finite: the adapter or the base is damaged"
                )
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            done(len(chunk))
    for parameter in parameters.values():
        parameter.grad = None
    mean = {name: (tensor / len(examples)).cpu() for name, tensor in total.items()}
    return mean if squared else {name: zscores(tensor) for name, tensor in mean.items()}


def zscores(mean_gradient: torch.Tensor) -> torch.Tensor:
    """|z| within one tensor (unbiased std); zeros where there is no spread. Source: the published implementation."""
    spread = mean_gradient.std()
    if not spread >= NO_SPREAD:
        return torch.zeros_like(mean_gradient)
    return ((mean_gradient - mean_gradient.mean()) / spread).abs()


def gradient_scores(
    model: LoadedModel,
    sets: Mapping[SetKey, Sequence[TokenisedExample]],
    config: UnlearnConfig,
    generator: torch.Generator,
    report: Report = ignore_progress,
) -> GradientStats:
    """Scores of every non-empty set, in a fixed order so that the generator's draws are repeatable."""
    filled = {key: sets[key] for key in sorted(sets) if sets[key]}
    everything = sum(len(examples) for examples in filled.values())
    finished = 0

    def done(count: int) -> None:
        nonlocal finished
        finished += count
        report(Progress("localise", finished / everything))

    scores = {key: set_scores(model, examples, config, generator, done) for key, examples in filled.items()}
    return GradientStats(scores, {key: len(examples) for key, examples in filled.items()})
