"""What the methods declare, what they refuse, and what each of them trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grail import methods
from grail.catalogue import FORGET, METHOD, RETAIN, declaration, names
from grail.config import GENERAL, UnlearnConfig
from grail.localise.gradients import GradientStats
from grail.localise.regions import MaskSet, NoRetainData
from grail.methods.memflex import NothingLocated, locate
from grail.model.adapter import adapter_parameters, read_state, write_state
from grail.model.load import LoadedModel
from grail.run import localise
from grail.train import unlearn
from grail.types import Example, Segment
from tests.grail.test_gradients import make
from tests.grail.test_train import data_for

ROWS = {
    "grail", "grad_ascent", "random_labels", "adversarial", "grad_diff", "grad_diff_general", "ascent_kl",
    "ascent_kl_general", "memflex",
}  # fmt: skip


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Iterator[LoadedModel]:
    yield tiny_model


def test_every_row_of_the_tables_is_a_file() -> None:
    assert set(names(METHOD)) == ROWS
    assert {"ascent", "calibrated", "hinge", "npo", "simnpo"} <= set(names(FORGET))
    assert set(names(RETAIN)) == {"descent", "kl"}


@pytest.mark.parametrize("name", names(METHOD))
def test_what_a_method_declares_are_settings_that_there_are(name: str) -> None:
    found = declaration(METHOD, name)
    whole = UnlearnConfig(method=name).as_dict()
    assert set(found.fixes) | set(found.presets) <= set(whole)
    for setting, value in found.fixes.items():
        assert whole[setting] == value
    assert all(whole[setting] not in ("", None) for setting in whole)


@pytest.mark.parametrize("name", sorted(ROWS - {"grail"}))
def test_a_method_refuses_settings_that_would_make_it_another(name: str) -> None:
    for setting, other in (("objective", "simnpo"), ("mask_rule", "published"), ("retain_source", "nowhere")):
        with pytest.raises(ValueError, match=f"the method {name} fixes {setting} to .*: leave {setting} out"):
            UnlearnConfig(method=name, **{setting: other})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"method": "grial"}, r"method is 'grial'.*did you mean grail\?"),
        ({"objective": "asent"}, r"objective is 'asent'.*did you mean ascent\?"),
        ({"objective": "npo", "options": {"betta": 1.0}}, "no such option; known: beta"),
        ({"objective": "npo", "options": {"beta": "high"}}, "the option beta must be like 0.1"),
        ({"method": "memflex", "options": {"thresholds": "both"}}, "thresholds is 'both': it must be one of quantile"),
        ({"method": "memflex", "options": {"mu": 2.0}}, r"the option mu is 2.0: it must lie in -1\.\.1"),
        ({"objective": "npo", "options": {"beta": 0}}, r"the option beta is 0.0: it must lie in 0\.001\.\.1000"),
        ({"strategy": "privacy>"}, "strategy is 'privacy>'"),
        ({"retain_objective": "ascent"}, "it must be one of descent, kl, none"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_those_that_do(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UnlearnConfig(**settings_)


def test_what_is_left_open_is_filled_in_and_reopened_when_the_objective_changes() -> None:
    one = UnlearnConfig(objective="npo", retain_weight=3.0)
    assert (one.options, one.forget_weight, one.retain_weight) == ({"beta": 0.1}, 1.0, 3.0)
    other = UnlearnConfig(**{**one.reopened(), "objective": "ascent"})
    assert (other.options, other.forget_weight, other.retain_weight) == ({"until": 5.0}, 3.0, 3.0)
    kept = UnlearnConfig(**one.as_dict())
    assert kept == one


def test_strategies_name_the_domains_of_each_run_in_turn() -> None:
    domains = {"privacy", "copyright", "third"}
    assert UnlearnConfig().legs(domains) == [("copyright", "privacy", "third")]
    assert UnlearnConfig(strategy="privacy>copyright").legs(domains) == [("privacy",), ("copyright",)]
    assert UnlearnConfig(strategy="privacy>copyright").legs({"copyright"}) == [("copyright",)]
    assert UnlearnConfig(strategy="third").legs(domains) == [("third",)]
    with pytest.raises(ValueError, match=r"names none of the domains .*: copyright"):
        UnlearnConfig(strategy="privacy").legs({"copyright"})


@pytest.mark.parametrize("name", sorted(ROWS))
@pytest.mark.parametrize("domains", [1, 3])
def test_every_method_runs_over_any_number_of_domains(tiny: LoadedModel, name: str, domains: int) -> None:
    items = [
        Example(f"{d}{s}{n}", f"domain{d}", s, f"subject {n}", f"what {d} {n}?", f"this is {s} {d} {n}")
        for d in range(domains)
        for s in Segment
        for n in range(2)
    ]
    items += [Example(f"g{n}", GENERAL, Segment.RETAIN, "", f"how {n}?", f"so {n}") for n in range(2)]
    config = UnlearnConfig(method=name, steps=2, examples_per_step=4, draws=1)
    start = read_state(tiny.model)
    masks = localise(tiny, items, config)
    assert (masks is None) == (methods.locator(name) is None)
    sets: dict[tuple[str, Segment], list[Any]] = {}
    for item in items:
        sets.setdefault((item.domain, item.segment), []).append(tiny.tokenise(item))
    state, log = unlearn(tiny, sets, masks, config)
    assert log.steps == 2 and not all(torch.equal(state[n], start[n]) for n in start)
    assert ("retain" in log.losses[0]) == (config.retain_objective != "none")


def test_out_of_distribution_methods_train_on_general_data_in_the_domains_place(tiny: LoadedModel) -> None:
    data = data_for(tiny)
    with pytest.raises(ValueError, match="grad_diff_general needs at least one retain example"):
        unlearn(tiny, data, None, UnlearnConfig(method="grad_diff_general", steps=1))
    start = read_state(tiny.model)
    states = []
    for general in (make([(2, 4)], 5, tiny), make([(3, 7)], 6, tiny)):
        for method in ("grad_diff", "grad_diff_general"):
            write_state(tiny.model, start)
            with_general = {**data, (GENERAL, Segment.RETAIN): general}
            states.append(unlearn(tiny, with_general, None, UnlearnConfig(method=method, steps=2))[0])
    name = next(iter(start))
    assert torch.equal(states[0][name], states[2][name])  # in distribution: the general data does not matter
    assert not torch.equal(states[1][name], states[3][name])


def memflex_stats(seed: int, domains: int, tensors: int = 5) -> GradientStats:
    generator = torch.Generator().manual_seed(seed)
    means = {
        (f"d{d}", segment): {f"t{n}": (n + 1) * torch.randn(3, 4, generator=generator) for n in range(tensors)}
        for d in range(domains)
        for segment in Segment
    }
    return GradientStats(means, means, dict.fromkeys(means, 2))


@given(seed=st.integers(0, 500), domains=st.integers(1, 3), mu=st.floats(-1, 1), sigma=st.floats(0, 4))
@settings(deadline=None)
def test_memflex_equals_its_definition(seed: int, domains: int, mu: float, sigma: float) -> None:
    stats = memflex_stats(seed, domains)
    options = {"thresholds": "absolute", "mu": mu, "sigma": sigma}
    expected = set()
    for d in range(domains):
        forget, retain = (stats.means[f"d{d}", segment] for segment in (Segment.FORGET, Segment.RETAIN))
        for name in forget:
            f, r = (g[name].numpy().astype(np.float64).flatten() for g in (forget, retain))
            cosine = f @ r / np.linalg.norm(f) / np.linalg.norm(r)
            if cosine < mu - 1e-6 and np.abs(f).mean() > sigma + 1e-6:
                expected.add(name)
    config = UnlearnConfig(method="memflex", options=options)
    assume(expected)
    masks = locate(stats, config, torch.Generator())
    trained = {name for name, mask in masks.op_ur.items() if not mask.any()}
    assert trained == expected
    assert all(bool(mask.all()) for name, mask in masks.op_ur.items() if name not in trained)


def test_memflex_with_quantiles_does_not_depend_on_the_gradients_scale() -> None:
    stats = memflex_stats(1, 2)
    scaled = GradientStats(stats.squares, {k: {n: 1e-6 * t for n, t in v.items()} for k, v in stats.means.items()}, {})
    for options in ({"mu": 1.0, "sigma": 0.3}, {"mu": 0.6, "sigma": 0.0}):
        config = UnlearnConfig(method="memflex", options=options)
        one, other = (locate(s, config, torch.Generator()).op_ur for s in (stats, scaled))
        assert {n for n, m in one.items() if m.all()} == {n for n, m in other.items() if m.all()}


def test_memflex_says_when_it_would_train_nothing_or_has_nothing_to_compare() -> None:
    stats = memflex_stats(1, 1)
    with pytest.raises(NothingLocated, match="raise mu or lower sigma"):
        locate(
            stats, UnlearnConfig(method="memflex", options={"thresholds": "absolute", "sigma": 99.0}), torch.Generator()
        )
    alone = GradientStats({}, {k: v for k, v in stats.means.items() if k[1] is Segment.FORGET}, {})
    with pytest.raises(NoRetainData):
        locate(alone, UnlearnConfig(method="memflex"), torch.Generator())


def test_memflex_trains_whole_tensors_and_leaves_the_others_bit_for_bit(tiny: LoadedModel) -> None:
    names_ = list(adapter_parameters(tiny.model))
    frozen = {
        n: torch.full_like(p, i % 2 == 0, dtype=torch.bool)
        for i, (n, p) in enumerate(adapter_parameters(tiny.model).items())
    }
    start = read_state(tiny.model)
    config = UnlearnConfig(method="memflex", steps=5, learning_rate=1e-2)
    state, _ = unlearn(tiny, data_for(tiny), MaskSet(frozen, frozen, {}), config)
    for place, name in enumerate(names_):
        assert torch.equal(state[name], start[name]) == (place % 2 == 0)
