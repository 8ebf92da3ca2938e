"""MemFlex (Tian et al., EMNLP 2024 Findings, arXiv 2407.01920): whole tensors train, the rest is frozen.

A tensor trains where forget and retain pull in different directions, cos(g_forget, g_retain) < mu, and forgetting
pulls hard, mean|g_forget| > sigma; g are mean gradients. Several domains: the union of their tensors. The published
thresholds are for 7B models and their gradients; with `thresholds` = `quantile` (instead of `absolute`) mu and sigma
are quantiles over the tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.config import UnlearnConfig
from grail.localise.gradients import GradientStats
from grail.localise.regions import MaskSet, NoRetainData, summary
from grail.types import Domain, Segment

FIXES = {
    "objective": "ascent", "retain_objective": "descent", "retain_source": "domains", "regions": "localised",
    "mask_rule": "frozen",
}  # fmt: skip
PRESETS = {"learning_rate": 1e-3, "forget_weight": 0.4, "retain_weight": 2.0}
OPTIONS = {"thresholds": "quantile", "mu": 0.75, "sigma": 0.25}
LIMITS = {"thresholds": ("quantile", "absolute"), "mu": (-1.0, 1.0), "sigma": (0.0, 1e6)}


class NothingLocated(ValueError):
    """No tensor passes both thresholds: nothing would be trained."""


def locate(stats: GradientStats, config: UnlearnConfig, _: torch.Generator) -> MaskSet:
    """Masks that are whole tensors: True where the tensor is frozen, for both segments alike.

    Domains without forget or retain examples are passed over. Raises NoRetainData, NothingLocated.
    """
    domains = sorted({domain for domain, _ in stats.means})
    both = [d for d in domains if {(d, Segment.FORGET), (d, Segment.RETAIN)} <= set(stats.means)]
    if not both:
        raise NoRetainData(
            "no domain has both forget and retain examples: add retain items of the forget items' domain"
        )
    figures = {domain: _figures(stats, domain) for domain in both}
    located = {name for found in figures.values() for name in _located(found, config)}
    if not located:
        raise NothingLocated("no adapter tensor passes both of MemFlex's thresholds: raise mu or lower sigma")
    tensors = next(iter(stats.means.values()))
    frozen = {name: torch.full_like(tensor, name not in located, dtype=torch.bool) for name, tensor in tensors.items()}
    also = {"method": "memflex", "tensors_trained": len(located), "tensors": len(tensors)}
    return MaskSet(frozen, frozen, {**summary(frozen, frozen, {}, config, stats), **also})


def _figures(stats: GradientStats, domain: Domain) -> dict[str, tuple[float, float]]:
    """(cosine of forget and retain, mean absolute forget gradient) of each tensor that has a gradient."""
    forget, retain = stats.means[domain, Segment.FORGET], stats.means[domain, Segment.RETAIN]
    return {
        name: (float(F.cosine_similarity(g.flatten(), retain[name].flatten(), dim=0)), float(g.abs().mean()))
        for name, g in forget.items()
        if g.any()
    }


def _located(figures: dict[str, tuple[float, float]], config: UnlearnConfig) -> list[str]:
    """Tensors below mu and above sigma."""
    mu, sigma = config.number("mu"), config.number("sigma")
    if config.options["thresholds"] == "quantile" and figures:
        mu, sigma = (_quantile([row[at] for row in figures.values()], q) for at, q in ((0, mu), (1, sigma)))
    return [name for name, (cosine, size) in figures.items() if cosine < mu and size > sigma]


def _quantile(values: list[float], share: float) -> Any:
    return torch.quantile(torch.tensor(values, dtype=torch.float64), share).item()
