"""Objectives of unlearning, one file each; importing this package registers them."""

from grail.methods import ascent, calibrated
from grail.methods.base import Objective, RowLosses, descent, known_objectives, objective, register

__all__ = ["Objective", "RowLosses", "ascent", "calibrated", "descent", "known_objectives", "objective", "register"]
