"""OP-UR and OP-RR: which adapter entries carry both forget and retain knowledge (paper III-D, eq. 4)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch

from grail.config import UnlearnConfig
from grail.localise.gradients import GradientStats, SetKey
from grail.types import Segment

Masks = dict[str, torch.Tensor]


class NoRetainData(ValueError):
    """A batch without a single retain example: there would be nothing to protect."""


@dataclass(frozen=True, slots=True)
class MaskSet:
    """Two boolean masks per adapter tensor, and `summary`: counts, shares, Jaccard matrices (JSON-ready)."""

    op_ur: Masks = field(repr=False)
    op_rr: Masks = field(repr=False)
    summary: dict[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over names and bits of both masks."""
        total = hashlib.sha256()
        for label, masks in (("op_ur", self.op_ur), ("op_rr", self.op_rr)):
            for name in sorted(masks):
                total.update(f"{label}:{name}:{tuple(masks[name].shape)};".encode())
                total.update(masks[name].to(torch.uint8).numpy().tobytes())
        return total.hexdigest()


def quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    """The q-quantile of all entries, linearly interpolated; for any size (torch.quantile stops at 2^24 entries)."""
    flat = values.flatten()
    place = q * (flat.numel() - 1)
    low, high = math.floor(place), math.ceil(place)
    below = flat.kthvalue(low + 1).values
    above = below if high == low else flat.kthvalue(high + 1).values
    return torch.lerp(below.double(), above.double(), place - low)


def top(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Entries of one tensor at or above its (1 - share) quantile, ties included; a score of 0 and a tensor without
    spread select nothing."""
    if share <= 0 or scores.numel() == 0 or not (scores.max() > scores.min()):
        return torch.zeros_like(scores, dtype=torch.bool)
    return (scores.double() >= quantile(scores, 1.0 - share)) & (scores > 0)


def top_sets(found: Mapping[SetKey, Masks], share: float) -> dict[SetKey, Masks]:
    """top_k of every set's scores, per tensor, never global: layers differ in size and scale."""
    return {key: {name: top(s, share) for name, s in scores.items()} for key, scores in found.items()}


def _combine(sets: list[Masks], operation: Any) -> Masks:
    return {name: reduce(operation, (masks[name] for masks in sets)) for name in sets[0]} if sets else {}


def locate(stats: GradientStats, config: UnlearnConfig, generator: torch.Generator) -> MaskSet:
    """OP-UR = (union of forget tops) & (union of retain tops); OP-RR = intersection of retain tops.

    A domain without examples drops out. Raises NoRetainData without any retain set. With `regions` = `random` one
    permutation per tensor is applied to both masks, so that sizes and overlap are kept; with `none` both are empty.
    """
    scores = stats.scores(config.score)
    ur, rr = top_sets(scores, config.k_ur), top_sets(scores, config.k_rr)
    forget = [masks for (_, segment), masks in ur.items() if segment is Segment.FORGET]
    retain = [masks for (_, segment), masks in ur.items() if segment is Segment.RETAIN]
    if not retain:
        raise NoRetainData("the batch has no retain example: add retain items or a standing retain set first")
    protect = _combine([m for (_, segment), m in rr.items() if segment is Segment.RETAIN], torch.logical_and)
    forget_union, retain_union = _combine(forget, torch.logical_or), _combine(retain, torch.logical_or)
    shared = {
        n: forget_union[n] & retain_union[n] if forget else torch.zeros_like(retain_union[n]) for n in retain_union
    }
    if config.regions == "none":
        shared, protect = _empty(shared), _empty(protect)
    if config.regions == "random":
        shared, protect = _shuffle(shared, protect, generator)
    return MaskSet(shared, protect, summary(shared, protect, ur, config, stats))


def _empty(masks: Masks) -> Masks:
    return {name: torch.zeros_like(mask) for name, mask in masks.items()}


def _shuffle(first: Masks, second: Masks, generator: torch.Generator) -> tuple[Masks, Masks]:
    moved: tuple[Masks, Masks] = ({}, {})
    for name in sorted(first):
        order = torch.randperm(first[name].numel(), generator=generator)
        for source, target in zip((first, second), moved, strict=True):
            target[name] = source[name].flatten()[order].reshape(source[name].shape)
    return moved


def jaccard(one: Masks, other: Masks, names: list[str]) -> float:
    """|A & B| / |A | B| over some tensors; 0 where both are empty."""
    both = sum(int((one[name] & other[name]).sum()) for name in names)
    either = sum(int((one[name] | other[name]).sum()) for name in names)
    return both / either if either else 0.0


def _matrix(sets: Mapping[SetKey, Masks], names: list[str]) -> list[list[float]]:
    return [[round(jaccard(one, other, names), 6) for other in sets.values()] for one in sets.values()]


def layer_of(name: str) -> str:
    """`layers.7` of a tensor's name; the whole name where there is no layer number."""
    found = re.search(r"\.(layers|h|blocks?)\.(\d+)\.", name)
    return f"layers.{int(found.group(2))}" if found else name


def summary(
    op_ur: Masks, op_rr: Masks, tops: Mapping[SetKey, Masks], config: UnlearnConfig, stats: GradientStats
) -> dict[str, Any]:
    """What a report shows of two masks: counts, shares and the Jaccard matrices of the sets' `tops`."""
    entries = sum(mask.numel() for mask in op_ur.values())
    layers: dict[str, list[str]] = {}
    for name in sorted(op_ur):
        layers.setdefault(layer_of(name), []).append(name)
    count = {label: sum(int(m.sum()) for m in masks.values()) for label, masks in (("op_ur", op_ur), ("op_rr", op_rr))}
    ordered = sorted(layers, key=lambda layer: (len(layer), layer))
    return {
        "score": config.score,
        "regions": config.regions,
        "k_ur": config.k_ur,
        "k_rr": config.k_rr,
        "entries": entries,
        **{label: {"count": n, "share": round(n / entries, 6)} for label, n in count.items()},
        "examples": {f"{domain}/{segment}": n for (domain, segment), n in stats.counts.items()},
        "jaccard": {
            "labels": [f"{domain}/{segment}" for domain, segment in tops],
            "whole": _matrix(tops, sorted(op_ur)),
            "layers": [{"name": layer, "matrix": _matrix(tops, layers[layer])} for layer in ordered],
        },
    }
