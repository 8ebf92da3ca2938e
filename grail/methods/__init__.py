"""The rows of every table (algorithm section 5), one file each: what a method fixes, and how it finds its regions.

A method's name is its file's (grail.catalogue reads the declarations). A file that only declares finds no regions; one
that has a `locate(stats, config, generator) -> MaskSet` does.
"""

from grail.methods.base import locator, needs_gradients

__all__ = ["locator", "needs_gradients"]
