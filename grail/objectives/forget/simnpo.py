"""`simnpo`: NPO without a second model, on the mean log-probability of a token (Fan et al. 2024, arXiv 2410.07163)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.model.load import LoadedModel
from grail.objectives.base import Objective, RowLosses, Setting, descent

PRESETS = {"learning_rate": 2e-3, "forget_weight": 1.0, "retain_weight": 1.0}
OPTIONS = {"beta": 2.5, "gamma": 0.0}
LIMITS = {"beta": (1e-3, 1e3)}


@dataclass(frozen=True, slots=True)
class SimpleNegativePreference:
    """-(2 / beta) log sigmoid(-beta mean log p - gamma): bounded below by 0."""

    beta: float
    gamma: float

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        rows = descent(model, batch)
        return RowLosses(2.0 / self.beta * F.softplus(self.gamma - self.beta * rows.loss), rows.nll)


def make(setting: Setting) -> Objective:
    """Nothing to prepare."""
    return SimpleNegativePreference(setting.config.number("beta"), setting.config.number("gamma"))
