"""`npo`: negative preference optimisation against the original adapter (Zhang et al. 2024, arXiv 2404.05868, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.data.tokenise import TokenisedExample
from grail.model.load import LoadedModel
from grail.objectives.base import Objective, RowLosses, Setting, descent, label_logprobs

PRESETS = {"learning_rate": 2e-3, "forget_weight": 1.0, "retain_weight": 1.0}
OPTIONS = {"beta": 0.1}
LIMITS = {"beta": (1e-3, 1e3)}


@dataclass(frozen=True, slots=True)
class NegativePreference:
    """-(2 / beta) log sigmoid(-beta log(p / p_original)), p that of the whole completion: bounded below by 0.

    `original` maps an example to its completion's log-probability.
    """

    original: Mapping[TokenisedExample, float] = field(repr=False)
    beta: float

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        rows = descent(model, batch)
        lengths = torch.tensor([float(e.completion_length) for e in batch.examples], device=rows.loss.device)  # (B,)
        original = torch.tensor([self.original[e] for e in batch.examples], device=rows.loss.device)  # (B,)
        ratio = -rows.loss * lengths - original  # (B,)
        return RowLosses(2.0 / self.beta * F.softplus(self.beta * ratio), rows.nll)


def make(setting: Setting) -> Objective:
    """Ask the original for each completion's log-probability once."""
    original = {example: float(tokens.sum()) for example, tokens in label_logprobs(setting).items()}
    return NegativePreference(original, setting.config.number("beta"))
