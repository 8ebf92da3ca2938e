"""Activation checkpointing in eval mode: keep each layer's input alone, and compute the layer again on the way back.

transformers' own switch works only while a layer is in training mode, which wakes dropout. Here the forward pass of the
layer modules is wrapped instead and no mode is touched, so that gradients are the same. Non-reentrant: a reentrant
checkpoint cuts the graph where no input asks for a gradient, and with a frozen base the first layer's input never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


class NoLayers(TypeError):
    """The network has no layers that can be checkpointed."""


class InTrainingMode(ValueError):
    """Dropout is awake: a layer that is computed twice would not come out the same."""


@contextmanager
def checkpointing(model: Any, *, on: bool) -> Iterator[None]:
    """Inside, the layers of `model` (any transformers decoder, wrapped by PEFT or not) are checkpointed where gradients
    are wanted; with `on` False nothing changes. Leaves every layer as it was.

    Passes without gradients, and those that fill a key-value cache, are computed as ever. Raises NoLayers, and
    InTrainingMode outside of eval mode.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if on else []
    if on and not layers:
        raise NoLayers("this network has no layers that can be checkpointed: set activation_checkpointing to off")
    if any(part.training for layer in layers for part in layer.modules()):
        raise InTrainingMode("the model is in training mode: put it into eval mode before it is checkpointed")
    # A forward pass on the instance is accelerate's, which brings inputs to the layer's device: it is wrapped with it.
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_computed_twice, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def _computed_twice(compute: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """One layer's forward pass, again on the way back. No operation of a decoder in eval mode is random, so that no
    generator state is kept."""
    if not torch.is_grad_enabled() or named.get("past_key_values") is not None:
        return compute(*inputs, **named)
    return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
