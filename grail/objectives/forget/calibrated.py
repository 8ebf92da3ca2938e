"""`calibrated`: KL(reference || current). The target is the model that never knew, which with LoRA is at hand: the same
network with the adapter off, or a registered adapter taught the retain data alone."""

from __future__ import annotations

from grail.model.load import as_reference
from grail.objectives.base import Objective, Setting
from grail.objectives.divergence import divergence

PRESETS = {"learning_rate": 2e-3, "forget_weight": 2.5, "retain_weight": 1.0}


def make(setting: Setting) -> Objective:
    """Pass every example through the reference once."""
    return divergence(setting, as_reference)
