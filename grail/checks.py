"""Checks of a run while it runs: cheap, always on, and each ends it with a sentence that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

Tensors = Mapping[str, torch.Tensor]


class AdapterDidNotMove(RuntimeError):
    """Training left every adapter weight as it was: the gradient never reached the adapter."""


class AdapterDetached(RuntimeError):
    """A backward pass brought no gradient to some adapter tensor that should have one."""


class MaskBroken(RuntimeError):
    """An entry that the mask rule protects has changed."""


class NonFinite(FloatingPointError):
    """A loss or gradient became NaN or infinite; the run has ended and nothing was published."""


class TwoMasks(Protocol):
    """A MaskSet, seen from here."""

    @property
    def op_ur(self) -> Mapping[str, torch.Tensor]:
        """Where forgetting must not write."""
        ...

    @property
    def op_rr(self) -> Mapping[str, torch.Tensor]:
        """Where retaining must not write."""
        ...


def attached(parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """After the first backward pass: every adapter tensor has a gradient, and some are not zero.

    A LoRA A has a gradient of zeros while its B is zero, so zeros alone are no fault. With gradient checkpointing users
    of PEFT have lost the whole adapter in silence (its inputs ask for no gradient): this is what catches it. Raises
    AdapterDetached.
    """
    without = [name for name, parameter in parameters.items() if parameter.grad is None]
    if without or not any(bool(p.grad.any()) for p in parameters.values() if p.grad is not None):
        first = next(iter(without or parameters))
        raise AdapterDetached(
            f"{len(without) or 'all'} of {len(parameters)} adapter tensors got no gradient ({first} among them): is "
            "the adapter on layers that the model never runs, or gradient checkpointing on without input gradients?"
        )


def moved(start: Tensors, final: Tensors) -> None:
    """At the end: some entry is another than at the start. Raises AdapterDidNotMove."""
    if all(torch.equal(final[name], start[name]) for name in start):
        raise AdapterDidNotMove("no adapter weight changed: the gradient never reached the adapter")


def kept(start: Tensors, now: Tensors, masks: TwoMasks | None, mask_rule: str) -> None:
    """Entries that nothing may write to are bit-identical to the start: OP-UR and OP-RR together under `frozen`, what
    lies in both of them under the other rules. Raises MaskBroken."""
    if masks is None:
        return
    for name, tensor in start.items():
        ur, rr = masks.op_ur[name], masks.op_rr[name]
        still = ur | rr if mask_rule == "frozen" else ur & rr
        if not torch.equal(tensor[still], now[name][still]):
            raise MaskBroken(
                f"entries of {name} changed that the mask rule {mask_rule} protects: this is a fault of ours"
            )
