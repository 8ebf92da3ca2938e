"""Slow, obvious twins of the fast paths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.model.adapter import adapter_parameters
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel


def example_gradient(model: LoadedModel, draws: Sequence[TokenisedExample]) -> dict[str, torch.Tensor]:
    """The mean over draws of the gradient of one example, one backward pass at a time."""
    parameters = adapter_parameters(model.model)
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for draw in draws:
        batch = pad([draw], model.pad_id)
        completion_nll(completion_logits(model, batch), batch).sum().backward()
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            total[name] += parameter.grad / len(draws)
            parameter.grad = None
    return total


def top_indices(scores: np.ndarray, share: float) -> set[int]:
    """Entries at or above the (1 - share) quantile of numpy; zeros and flat tensors select nothing."""
    flat = scores.flatten().astype(np.float64)
    if share <= 0 or flat.max() == flat.min():
        return set()
    bound = np.quantile(flat, 1 - share)
    return {index for index, value in enumerate(flat) if value >= bound and value > 0}
