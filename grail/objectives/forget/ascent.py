"""`ascent`: the paper's objective, minus the mean completion NLL. Unbounded unless `until` bounds it.

The presets' ratio of the weights is that of the published factors, -0.4 and +2.0. The option `until` (nats; 0: never,
as published) is a stop rule for each token: one that has become so unlikely is pushed no further, and what it no longer
asks for is left to the retain side.
"""

from __future__ import annotations

from dataclasses import dataclass

from grail.data.batches import PaddedBatch
from grail.model.forward import row_mean, token_nll
from grail.model.load import LoadedModel
from grail.objectives.base import Objective, RowLosses, Setting

PRESETS = {"learning_rate": 1e-3, "forget_weight": 0.4, "retain_weight": 2.0}
OPTIONS = {"until": 0.0, "hold": 0.0, "weights": "equal"}
LIMITS = {"until": (0.0, 1e6), "hold": (0.0, 1.0), "weights": ("equal", "odds")}


@dataclass(frozen=True, slots=True)
class Ascent:
    """Minus the mean over completion tokens of min(NLL, `until`) - `hold` x max(NLL - `until`, 0)."""

    until: float
    hold: float = 0.0
    odds: bool = False

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        nll = token_nll(model, batch)  # (M,)
        pushed = nll
        if self.until:
            pushed = nll.clamp(max=self.until) - self.hold * (nll - self.until).clamp(min=0.0)
        if self.odds:
            p = (-nll.detach()).exp()
            pushed = pushed * p / (1 - p).clamp(min=1e-4)
        return RowLosses(-row_mean(pushed, batch), row_mean(nll.detach(), batch))


ascent = Ascent(until=0.0)
"""As published."""


def make(setting: Setting) -> Objective:
    """Nothing stays the same from step to step: there is nothing to prepare."""
    return Ascent(setting.config.number("until"), setting.config.number("hold"), setting.config.options["weights"] == "odds")
