"""Regions equal a set-based oracle; the random control keeps sizes and overlap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail.config import UnlearnConfig
from grail.localise.gradients import GradientStats
from grail.localise.regions import NoRetainData, locate, quantile
from grail.types import Segment
from tests.grail.oracles import top_indices

SHAPES = {"model.layers.0.q.lora_A": (2, 5), "model.layers.0.q.lora_B": (5, 2), "model.layers.1.v.lora_A": (3, 3)}


def stats(seed: int, domains: int, flat: bool = False) -> GradientStats:
    numbers = np.random.default_rng(seed)
    scores = {}
    for domain in range(domains):
        for segment in Segment:
            # coarse values make ties, zeros make empty selections
            scores[f"d{domain}", segment] = {
                name: torch.tensor(np.round(numbers.exponential(size=shape) * (0 if flat else 2)) / 2)
                for name, shape in SHAPES.items()
            }
    return GradientStats(scores, scores, dict.fromkeys(scores, 3))


def chosen(mask: torch.Tensor) -> set[int]:
    return set(mask.flatten().nonzero().flatten().tolist())


@given(seed=st.integers(0, 10_000), domains=st.integers(1, 3), k_ur=st.floats(0, 1), k_rr=st.floats(0, 1))
@settings(deadline=None)
def test_regions_equal_the_set_based_oracle(seed: int, domains: int, k_ur: float, k_rr: float) -> None:
    given_stats = stats(seed, domains)
    masks = locate(given_stats, UnlearnConfig(k_ur=k_ur, k_rr=k_rr), torch.Generator())
    for name in SHAPES:
        tops = {key: top_indices(s[name].numpy(), k_ur) for key, s in given_stats.squares.items()}
        forget = set().union(*(v for (_, segment), v in tops.items() if segment is Segment.FORGET))
        retain = set().union(*(v for (_, segment), v in tops.items() if segment is Segment.RETAIN))
        protect = set.intersection(
            *(top_indices(s[name].numpy(), k_rr) for (_, g), s in given_stats.squares.items() if g is Segment.RETAIN)
        )
        assert chosen(masks.op_ur[name]) == forget & retain
        assert chosen(masks.op_rr[name]) == protect


@given(seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_random_regions_keep_sizes_and_overlap_per_tensor(seed: int) -> None:
    located = locate(stats(seed, 2), UnlearnConfig(k_ur=0.5, k_rr=0.5), torch.Generator())
    moved = locate(
        stats(seed, 2), UnlearnConfig(k_ur=0.5, k_rr=0.5, regions="random"), torch.Generator().manual_seed(seed)
    )
    for name in SHAPES:
        for one, other in ((located.op_ur, moved.op_ur), (located.op_rr, moved.op_rr)):
            assert int(one[name].sum()) == int(other[name].sum())
        overlap = (located.op_ur[name] & located.op_rr[name]).sum()
        assert int(overlap) == int((moved.op_ur[name] & moved.op_rr[name]).sum())


def test_no_regions_means_empty_masks() -> None:
    masks = locate(stats(1, 2), UnlearnConfig(regions="none"), torch.Generator())
    assert masks.summary["op_ur"]["count"] == masks.summary["op_rr"]["count"] == 0


def test_a_domain_without_retain_examples_drops_out() -> None:
    whole = stats(4, 2)
    part = GradientStats({k: s for k, s in whole.squares.items() if k != ("d1", Segment.RETAIN)}, {}, whole.counts)
    only = GradientStats({k: s for k, s in whole.squares.items() if k[0] == "d0"}, {}, whole.counts)
    config = UnlearnConfig(k_ur=0.4, k_rr=0.4)
    for name in SHAPES:
        assert torch.equal(
            locate(part, config, torch.Generator()).op_rr[name], locate(only, config, torch.Generator()).op_rr[name]
        )


def test_a_batch_without_retain_data_is_refused() -> None:
    whole = stats(4, 1)
    forget_only = GradientStats({("d0", Segment.FORGET): whole.squares["d0", Segment.FORGET]}, {}, {})
    with pytest.raises(NoRetainData, match="standing retain set"):
        locate(forget_only, UnlearnConfig(), torch.Generator())


def test_scores_of_zero_select_nothing() -> None:
    masks = locate(stats(0, 2, flat=True), UnlearnConfig(k_ur=1, k_rr=1), torch.Generator())
    assert masks.summary["op_ur"]["count"] == 0


def test_the_digest_names_the_bits() -> None:
    one, same, other = (locate(stats(seed, 2), UnlearnConfig(), torch.Generator()) for seed in (1, 1, 2))
    assert one.digest == same.digest != other.digest


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=40), q=st.floats(0, 1))
def test_quantile_equals_numpy(values: list[float], q: float) -> None:
    found = quantile(torch.tensor(values, dtype=torch.float64), q)
    assert float(found) == pytest.approx(np.quantile(values, q), abs=1e-9)
