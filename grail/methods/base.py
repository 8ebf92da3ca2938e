"""How a method's way to find regions is found."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch

from grail.config import UnlearnConfig
from grail.localise.gradients import GradientStats
from grail.localise.regions import MaskSet

Locator = Callable[[GradientStats, UnlearnConfig, torch.Generator], MaskSet]


def locator(name: str) -> Locator | None:
    """The `locate` of a method, or None for one that trains every entry alike."""
    found: Locator | None = getattr(import_module(f"grail.methods.{name}"), "locate", None)
    return found


def needs_gradients(config: UnlearnConfig) -> bool:
    """Whether a run has regions to find."""
    return config.regions != "none" and locator(config.method) is not None
