"""Output matrix and negative log-likelihood in one, a few positions at a time.

The gradient of -log softmax(W h)[y] with respect to h is (softmax(W h) - onehot(y)) W. It is made in the forward pass,
while the logits of these few positions are at hand, and scaled when the loss's own gradient is known: the
(L, V) logits of a batch are never held, which for a small model are most of what a pass would keep.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name
from torch.autograd.function import once_differentiable

CHUNK_ENTRIES = 2**23
"""Logits at once: 32 MB in fp32. With fewer positions reading the output matrix takes longer than multiplying it."""
UNLIKELY = 60.0
"""Nats beyond which the logarithm of a share loses digits (its exponential leaves the range of fp32 at 87)."""


def position_nll(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """NLL in nats (L,), fp32, of `labels` (L,) under the logits hidden (L, H) x weight (V, H); differentiable with
    respect to `hidden`. Logits are rounded to the weights' precision, the rest is fp32."""
    nll: torch.Tensor = _PositionNLL.apply(hidden, weight.detach(), labels)  # type: ignore[no-untyped-call]
    return nll


class _PositionNLL(torch.autograd.Function):
    """`position_nll`; keeps the gradient of each position's loss with respect to its hidden state (L, H)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        size = max(1, CHUNK_ENTRIES // weight.shape[0])
        wanted = ctx.needs_input_grad[0]
        found, slopes = [], []
        for states, truth in zip(torch.split(hidden, size), torch.split(labels[:, None], size), strict=True):
            logits = F.linear(states, weight)  # (C, V)
            shares = torch.softmax(logits, dim=-1, dtype=torch.float32)
            nll = -shares.gather(-1, truth).squeeze(-1).log()
            lost = ~(nll < UNLIKELY)
            if lost.any():
                nll[lost] = F.cross_entropy(logits[lost].float(), truth[lost].squeeze(-1), reduction="none")
            found.append(nll)
            if wanted:
                shares.scatter_add_(-1, truth, shares.new_full(truth.shape, -1.0))
                slopes.append(torch.mm(shares.to(weight.dtype), weight))  # (C, H)
        ctx.slopes = torch.cat(slopes) if wanted else None
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flowed_back: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return (ctx.slopes * flowed_back[:, None]).to(ctx.slopes.dtype), None, None
