"""Per-example adapter gradients in one batched backward pass, and what is kept of them (paper eq. 3).

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
from grail.model.load import LoadedModel, ordinary_tokens
from grail.types import Domain, Progress, Report, Segment, ignore_progress

SetKey = tuple[Domain, Segment]
Sink = Callable[[str, torch.Tensor], None]

NO_SPREAD = 1e-12
"""A mean-gradient tensor with a smaller standard deviation contributes nothing to `zscore`."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class GradientStats:
    """Two statistics of each set, by (domain, segment) and tensor, fp32, each of the adapter tensor's shape: `squares`,
    the mean over examples of the squared gradient, and `means`, the mean gradient. `counts` are examples."""

    squares: dict[SetKey, Tensors] = field(repr=False)
    means: dict[SetKey, Tensors] = field(repr=False)
    counts: dict[SetKey, int]

    def scores(self, score: str) -> dict[SetKey, Tensors]:
        """`squared`: the squares; `zscore`: |z| of the means, tensor by tensor."""
        if score == "squared":
            return self.squares
        return {key: {name: zscores(g) for name, g in means.items()} for key, means in self.means.items()}


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


class NotPerExample(ValueError):
    """An adapted layer does not see whole sequences, row by row: examples can not be told apart there."""


class _Tap(torch.autograd.Function):
    """The identity on a layer's output (N*D, T, out) that hands over per-example gradients on the way back.

    What flowed in is saved through autograd, not held by a closure: under activation checkpointing it is then dropped
    after the forward pass and computed again, like everything else, and nothing is handed over twice.
    """

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, flowed_in: torch.Tensor, name: str, draws: int, sink: Sink) -> Any:
        ctx.save_for_backward(flowed_in)
        ctx.name, ctx.draws, ctx.sink = name, draws, sink
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, flowed_back: torch.Tensor) -> Any:  # (N*D, T, out)
        (flowed_in,) = ctx.saved_tensors  # (N*D, T, in)
        shape = (flowed_back.shape[0] // ctx.draws, -1)
        signal = flowed_back.reshape(*shape, flowed_back.shape[-1])  # (N, D*T, out)
        activation = flowed_in.to(signal.dtype).reshape(*shape, flowed_in.shape[-1])  # (N, D*T, in)
        ctx.sink(ctx.name, torch.bmm(signal.transpose(1, 2), activation).float())  # (N, out, in)
        return flowed_back, None, None, None, None


@contextmanager
def per_example_gradients(model: Any, draws: int, sink: Sink) -> Iterator[None]:
    """While open, every backward pass hands `sink(name, gradients)` the per-example gradients (N, out, in) of each
    LoRA matrix. Rows of a batch are grouped by `draws`: rows n*draws..(n+1)*draws-1 belong to example n.

    Raises NotPerExample."""
    owners = {parameter: name for name, parameter in adapter_parameters(model).items()}
    handles = []

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
        def forward(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if inputs[0].dim() != 3:
                raise NotPerExample(f"{name} does not see whole sequences: leave its layer out of the adapter")
            tapped: torch.Tensor = _Tap.apply(output, inputs[0].detach(), name, draws, sink)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return tapped

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


def set_statistics(
    model: LoadedModel,
    examples: Sequence[TokenisedExample],
    config: UnlearnConfig,
    generator: torch.Generator,
    done: Callable[[int], None] = lambda _: None,
) -> tuple[Tensors, Tensors]:
    """(mean squared gradient, mean gradient) of one set, from one pass. Raises FloatingPointError, NotPerExample."""
    parameters = adapter_parameters(model.model)
    squares, totals = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))

    def add(name: str, gradients: torch.Tensor) -> None:
        totals[name] += gradients.sum(dim=0)
        squares[name] += gradients.square_().sum(dim=0)

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
    return tuple(  # type: ignore[return-value]  # two of them
        {name: (tensor / len(examples)).cpu() for name, tensor in sums.items()} for sums in (squares, totals)
    )


def zscores(mean_gradient: torch.Tensor) -> torch.Tensor:
    """|z| within one tensor (unbiased std); zeros where there is no spread. Source: the published implementation."""
    spread = mean_gradient.std()
    if not spread >= NO_SPREAD:
        return torch.zeros_like(mean_gradient)
    return ((mean_gradient - mean_gradient.mean()) / spread).abs()


def gradient_statistics(
    model: LoadedModel,
    sets: Mapping[SetKey, Sequence[TokenisedExample]],
    config: UnlearnConfig,
    generator: torch.Generator,
    report: Report = ignore_progress,
) -> GradientStats:
    """Statistics of every non-empty set, in a fixed order so that the generator's draws are repeatable."""
    filled = {key: sets[key] for key in sorted(sets) if sets[key]}
    everything = sum(len(examples) for examples in filled.values())
    finished = 0

    def done(count: int) -> None:
        nonlocal finished
        finished += count
        report(Progress("localise", finished / everything))

    found = {key: set_statistics(model, examples, config, generator, done) for key, examples in filled.items()}
    squares, means = ({key: pair[place] for key, pair in found.items()} for place in (0, 1))
    return GradientStats(squares, means, {key: len(examples) for key, examples in filled.items()})
