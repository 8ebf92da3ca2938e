"""What is minimised on forget and on retain examples, one file each; found by file name (grail.catalogue)."""

from grail.objectives.base import Objective, RowLosses, Setting, descent, objective

__all__ = ["Objective", "RowLosses", "Setting", "descent", "objective"]
