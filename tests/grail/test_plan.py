"""Estimates against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail.config import LEAST_STEPS, METHODS, MOST_STEPS, UnlearnConfig
from grail.methods import needs_gradients
from grail.plan import RUNTIME_BYTES, ModelShape, Workload, estimate, peak_bytes

SMOLLM2_135M = {
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
TINY = ModelShape.from_config(
    {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 10}
)
LOAD = Workload(items=4, item_tokens=40, scored=8, scored_tokens=80, longest_tokens=12, forget_items=(1, 1))


def test_parameters_and_adapter_entries_of_a_known_model():
    shape = ModelShape.from_config(SMOLLM2_135M)
    assert shape.parameters == 134_515_008
    assert shape.adapter_entries(16) == 4_884_480
    assert shape.adapter_entries(16, "all-linear") == 4_884_480
    assert shape.adapter_entries(2, ["q_proj", "no_such_layer"]) == 2 * 30 * (576 + 576)


def test_an_untied_model_counts_its_input_embedding_once_more():
    tied = dataclasses.replace(TINY, tied_embeddings=True)
    assert TINY.parameters - tied.parameters == 10 * 8
    assert TINY.multiplied == tied.multiplied == 4 * 64 + 3 * 128 + 80


def test_seconds_follow_the_formula():
    config = UnlearnConfig(objective="ascent", draws=3, steps=5, examples_per_step=4, score_every_steps=2)
    result = estimate(TINY, 100, LOAD, config, flop_per_second=1000.0)
    forward = 2 * (720 + 100) + 4 * 8 * 10  # mean length 10
    training = 2 * forward + 200
    assert result.stages["localise"] == pytest.approx(3 * 40 * training / 1000)
    assert result.stages["train"] == pytest.approx(5 * 4 * 10 * training / 1000)
    assert result.stages["select"] == pytest.approx(3 * 40 * forward / 2000)
    assert result.stages["evaluate"] == pytest.approx(5 * 80 * forward / 2000)
    assert result.seconds == pytest.approx(sum(result.stages.values()))


def test_the_calibrated_objective_pays_for_its_reference_and_no_regions_save_localisation():
    ascent, calibrated = (
        estimate(TINY, 100, LOAD, UnlearnConfig(objective=name), 1e9) for name in ("ascent", "calibrated")
    )
    assert calibrated.stages["train"] > ascent.stages["train"]
    assert estimate(TINY, 100, LOAD, UnlearnConfig(regions="none"), 1e9).stages["localise"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_localisation_is_charged_exactly_where_a_method_finds_regions(method: str):
    config = UnlearnConfig(method=method)
    assert (estimate(TINY, 100, LOAD, config, 1e9).stages["localise"] > 0) is needs_gradients(config)


def test_bytes_hold_at_least_weights_adapter_and_logits():
    config = UnlearnConfig(precision="fp32", micro_batch=2)
    least = RUNTIME_BYTES + 4 * TINY.parameters + 46 * 100 + 12 * 2 * 12 * 10
    assert peak_bytes(TINY, 100, LOAD, config) > least
    assert peak_bytes(TINY, 100, LOAD, dataclasses.replace(config, precision="bf16")) < peak_bytes(
        TINY, 100, LOAD, config
    )


def test_the_reference_of_the_calibrated_objective_is_paid_for_once():
    config = UnlearnConfig(objective="calibrated", steps=5, examples_per_step=4)
    forward = 2 * (720 + 100) + 4 * 8 * 10
    expected = 5 * 4 * 10 * (2 * forward + 200) + 2 * 10 * forward
    assert estimate(TINY, 100, LOAD, config, 1000.0).stages["train"] == pytest.approx(expected / 1000)


def test_a_step_pays_for_no_more_rows_than_there_are():
    few = Workload(items=3, item_tokens=30, scored=3, scored_tokens=30, longest_tokens=12, forget_items=(1,))
    config = UnlearnConfig(objective="ascent", steps=1, examples_per_step=64)
    assert estimate(TINY, 100, few, config, 1000.0).stages["train"] == pytest.approx(
        estimate(TINY, 100, few, dataclasses.replace(config, examples_per_step=6), 1000.0).stages["train"]
    )


def test_passes_decide_the_steps_unless_steps_are_given():
    config = UnlearnConfig(passes=10, examples_per_step=16)
    assert config.planned_steps([30, 30]) == 75  # 10 passes of 60 at 8 a step
    assert config.planned_steps([30, 1]) == 75  # the smaller domain is repeated
    assert config.planned_steps([60]) == config.planned_steps([60, 0]) == 75
    assert config.planned_steps([1]) == config.planned_steps([]) == LEAST_STEPS
    assert dataclasses.replace(config, passes=1e4).planned_steps([10_000_000]) == MOST_STEPS
    assert dataclasses.replace(config, steps=7).planned_steps([30, 30]) == 7


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 400), st.integers(1, 64))
def test_more_work_never_takes_less(items, extra, steps, micro_batch):
    config = UnlearnConfig(steps=steps if steps > 200 else 0, passes=steps, micro_batch=micro_batch)
    small = Workload(items, items * 20, items * 2, items * 40, 20, (items // 2,))
    more = items + extra
    large = Workload(more, more * 20, more * 2, more * 40, 20, (items // 2 + extra,))
    before, after = (estimate(TINY, 100, load, config, 1e9) for load in (small, large))
    assert after.seconds >= before.seconds
    assert after.bytes >= before.bytes


def test_an_empty_workload_and_a_dead_device():
    nothing = estimate(TINY, 100, Workload(0, 0, 0, 0, 0, ()), UnlearnConfig(), 1e9)
    assert nothing.seconds == 0
    with pytest.raises(ValueError, match="above 0"):
        estimate(TINY, 100, LOAD, UnlearnConfig(), 0.0)
