"""Estimates against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail.config import LEAST_STEPS, METHODS, MOST_STEPS, UnlearnConfig
from grail.evaluate import MICRO_BATCH
from grail.methods import needs_gradients
from grail.metrics.likelihood import ANSWER_SLACK, TOKENS_AT_ONCE
from grail.plan import NAMED_SHAPES, Device, Layout, ModelShape, Workload, cpu, device_named, estimate, plan, seconds
from grail.plan.devices import GIGABYTE
from grail.plan.fit import Estimate
from grail.plan.memory import RUNTIME_BYTES, layer_bytes, weight_bytes
from grail.plan.seconds import FORWARD_GAIN, OPTIMISER_PASSES, REGION_SECONDS_PER_ENTRY


def test_what_is_copied_because_plan_imports_nothing_is_what_is_measured_with():
    assert (seconds.FORWARD_ROWS, seconds.FORWARD_TOKENS) == (MICRO_BATCH, TOKENS_AT_ONCE)
    assert seconds.ANSWER_SLACK == ANSWER_SLACK


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
IDEAL = Device("ideal", 1000.0, float("inf"), None, 0.0, True, True, "products alone take time")
FORWARD = 2 * (640 + 100) + 4 * 8 * 10 + 2 * 80
"""FLOP of a token of TINY with 100 adapter entries at mean length 10, all tokens predicted."""
TRAINING = 2 * FORWARD + 4 * 8 * 10 + 2 * 100


def on_ideal(load: Workload, config: UnlearnConfig) -> Estimate:
    return estimate(TINY, 100, load, config, IDEAL)


def test_parameters_and_adapter_entries_of_a_known_model():
    shape = ModelShape.from_config(SMOLLM2_135M)
    assert shape.parameters == 134_515_008
    assert shape.adapter_entries(16) == 4_884_480
    assert shape.adapter_entries(16, "all-linear") == 4_884_480
    assert shape.adapter_entries(2, ["q_proj", "no_such_layer"]) == 2 * 30 * (576 + 576)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-70b", 68_976_648_192),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3-70b", 70_553_706_496),
    ],
)
def test_named_shapes_have_the_published_number_of_weights(name, parameters):
    assert NAMED_SHAPES[name].parameters == parameters


def test_an_untied_model_counts_its_input_embedding_once_more():
    tied = dataclasses.replace(TINY, tied_embeddings=True)
    assert TINY.parameters - tied.parameters == 10 * 8
    assert TINY.multiplied == tied.multiplied == 4 * 64 + 3 * 128 + 80


def test_seconds_follow_the_formula():
    config = UnlearnConfig(objective="ascent", draws=3, steps=5, examples_per_step=4, score_every_steps=2)
    result = on_ideal(LOAD, config)  # 2 forget items, 2 retain items of which 1 is held out
    regions = 4 * 100 * REGION_SECONDS_PER_ENTRY
    assert result.stages["localise"] == pytest.approx(3 * 30 * (TRAINING + 200) / 1000 + regions)
    assert result.stages["train"] == pytest.approx(5 * 3 * 10 * TRAINING / 1000)
    assert result.stages["select"] == pytest.approx(3 * 30 * FORWARD / (1000 * FORWARD_GAIN))
    assert result.stages["evaluate"] == pytest.approx(3 * 80 * FORWARD / (1000 * FORWARD_GAIN))
    said = (2 + 4) * (10 + 12) * FORWARD  # forget items, then they and their probes, with 12 tokens of slack
    assert result.stages["answer"] == pytest.approx(said / (1000 * FORWARD_GAIN))
    assert result.seconds == pytest.approx(sum(result.stages.values()))


def test_weights_read_and_operations_handed_over_add_up_on_a_processor_and_overlap_on_a_gpu():
    slow = dataclasses.replace(IDEAL, bytes_per_second=1.0, dispatch_seconds=10.0)
    weights = weight_bytes(TINY, Layout(2))
    one = Workload(2, 20, 2, 20, 12, (1,))
    computing = 3 * 20 * FORWARD / (1000 * FORWARD_GAIN) + 3 * weights
    gpu, processor = (
        estimate(TINY, 100, one, UnlearnConfig(), dataclasses.replace(slow, is_gpu=is_gpu)).stages["evaluate"]
        for is_gpu in (True, False)
    )
    assert gpu == pytest.approx(computing)
    assert processor == pytest.approx(computing + 3 * 10.0)
    idle = dataclasses.replace(slow, bytes_per_second=1e12, dispatch_seconds=1e6)
    assert estimate(TINY, 100, one, UnlearnConfig(), idle).stages["evaluate"] == pytest.approx(3e6)


def test_the_adapter_is_read_and_written_at_each_step():
    memory = dataclasses.replace(IDEAL, bytes_per_second=1e6, flop_per_second=1e18)
    config = UnlearnConfig(objective="ascent", steps=7, examples_per_step=2)
    reading = 7 * 2 * 2 * weight_bytes(TINY, Layout(2)) / 1e6
    expected = reading + 7 * 100 * 4 * OPTIMISER_PASSES / 1e6
    assert estimate(TINY, 100, LOAD, config, memory).stages["train"] == pytest.approx(expected)


def test_prompts_do_not_pay_for_the_output_matrix():
    config = UnlearnConfig(objective="ascent")
    half = on_ideal(dataclasses.replace(LOAD, completion_share=0.5), config).stages["evaluate"]
    assert on_ideal(LOAD, config).stages["evaluate"] - half == pytest.approx(3 * 80 * 80 / (1000 * FORWARD_GAIN))


def test_the_calibrated_objective_pays_for_its_reference_and_no_regions_save_localisation():
    ascent, calibrated = (on_ideal(LOAD, UnlearnConfig(objective=name)) for name in ("ascent", "calibrated"))
    assert calibrated.stages["train"] > ascent.stages["train"]
    assert on_ideal(LOAD, UnlearnConfig(regions="none")).stages["localise"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_localisation_is_charged_exactly_where_a_method_finds_regions(method: str):
    config = UnlearnConfig(method=method)
    assert (on_ideal(LOAD, config).stages["localise"] > 0) is needs_gradients(config)


@pytest.mark.parametrize(("over", "again"), [("label", 0), ("vocabulary", 5 * 2 * 10 * 160)])
def test_the_reference_is_paid_for_once_and_its_output_matrix_where_the_vocabulary_is_compared(over, again):
    config = UnlearnConfig(objective="calibrated", steps=5, examples_per_step=4, options={"over": over})
    expected = 5 * 3 * 10 * TRAINING + again + 2 * 10 * FORWARD / FORWARD_GAIN
    assert on_ideal(LOAD, config).stages["train"] == pytest.approx(expected / 1000)


def test_a_method_that_retains_nothing_fills_its_steps_with_forget_rows_and_asks_no_reference():
    load = Workload(items=20, item_tokens=200, scored=20, scored_tokens=200, longest_tokens=12, forget_items=(10,))
    config = UnlearnConfig(method="grad_ascent", steps=3, examples_per_step=8)
    assert on_ideal(load, config).stages["train"] == pytest.approx(3 * 8 * 10 * TRAINING / 1000)
    kept = UnlearnConfig(method="ascent_kl", steps=3, examples_per_step=8, holdout_share=0.0)
    once, again = 10 * 10 * FORWARD / FORWARD_GAIN / 1000, 3 * 4 * 10 * 160 / 1000  # of what is to stay
    assert on_ideal(load, kept).stages["train"] == pytest.approx(3 * 8 * 10 * TRAINING / 1000 + once + again)


def test_a_strategy_of_several_legs_pays_for_the_steps_of_each():
    load = dataclasses.replace(LOAD, items=200, forget_items=(40, 10))
    together, apart = (
        on_ideal(load, UnlearnConfig(method="grad_ascent", strategy=way, passes=20.0, examples_per_step=8))
        for way in ("combined", "privacy>copyright")
    )
    assert together.stages["train"] == pytest.approx(200 * 8 * 10 * TRAINING / 1000)  # 20 * 2 * 40 / 8 steps
    assert apart.stages["train"] == pytest.approx((100 + LEAST_STEPS) * 8 * 10 * TRAINING / 1000)


def test_a_step_pays_for_no_more_rows_than_there_are():
    few = Workload(items=3, item_tokens=30, scored=3, scored_tokens=30, longest_tokens=12, forget_items=(1,))
    config = UnlearnConfig(objective="ascent", steps=1, examples_per_step=64)
    assert on_ideal(few, config).stages["train"] == pytest.approx(
        on_ideal(few, dataclasses.replace(config, examples_per_step=6)).stages["train"]
    )


def test_checkpointing_takes_one_more_forward_pass_through_the_layers_and_less_memory():
    config = UnlearnConfig(objective="ascent", steps=1, examples_per_step=4)
    shape = NAMED_SHAPES["llama-7b"]
    plain, checkpointed = (
        estimate(shape, 1000, LOAD, config, IDEAL, Layout(2, checkpointing=on)) for on in (False, True)
    )
    through = 2 * (shape.projected + 1000) + 4 * shape.layers * shape.queries * 10
    assert checkpointed.stages["train"] - plain.stages["train"] == pytest.approx(30 * through / 1000)
    assert checkpointed.stages["evaluate"] == plain.stages["evaluate"]
    for stage in ("localise", "train"):
        assert checkpointed.memory[stage]["activations"] < plain.memory[stage]["activations"] / 4


def test_bytes_hold_weights_adapter_and_logits():
    config = UnlearnConfig(precision="fp32", micro_batch=2)
    result = estimate(TINY, 100, LOAD, config, cpu(2))
    assert result.memory["train"]["weights"] == 4 * TINY.parameters
    assert result.memory["train"]["adapter"] == 4 * 9 * 100
    assert result.memory["train"]["masks"] == 2 * 100
    assert result.memory["localise"]["scores"] >= 4 * 5 * 100  # four sets and the one at hand
    assert result.bytes == max(sum(parts.values()) for parts in result.memory.values()) > RUNTIME_BYTES
    assert estimate(TINY, 100, LOAD, dataclasses.replace(config, precision="bf16"), cpu(2)).bytes < result.bytes


@pytest.mark.parametrize(("width", "bytes_a_token"), [(2, 26_624), (4, 45_184)])
def test_a_layer_keeps_what_autograd_was_seen_to_keep(width, bytes_a_token):
    # Counted with torch.autograd.graph.saved_tensors_hooks in a layer of the 135M model: 4 rows of 48 tokens, rank 16;
    # without the norms' statistics (8 bytes a token) and the bf16 copies of the adapter, which do not grow with tokens.
    assert layer_bytes(ModelShape.from_config(SMOLLM2_135M), 16, 48, width, True) == bytes_a_token


def test_a_quantised_base_shrinks_its_projections_alone():
    shape = NAMED_SHAPES["llama-7b"]
    rest = shape.parameters - shape.projected
    assert weight_bytes(shape, Layout(2)) == 2 * shape.parameters
    assert weight_bytes(shape, Layout(2, "int8")) == shape.projected + 2 * rest
    assert weight_bytes(shape, Layout(2, "nf4")) == shape.projected * 9 // 16 + 2 * rest


def test_more_devices_divide_weights_and_not_time():
    one, eight = (
        estimate(NAMED_SHAPES["llama-70b"], 10**6, LOAD, UnlearnConfig(), IDEAL, Layout(2, devices=count))
        for count in (1, 8)
    )
    assert eight.memory["train"]["weights"] == pytest.approx(one.memory["train"]["weights"] / 8, abs=1)
    assert eight.seconds == one.seconds


LONG = Workload(100, 50_000, 100, 50_000, 2000, (50,), 0.5)


def planned(memory_gb: float, devices: int = 1, quantisation: str | None = None):
    device = device_named(f"cuda:{memory_gb}GB", 1)
    shape = NAMED_SHAPES["llama-7b"]
    return plan(shape, shape.adapter_entries(16), LONG, UnlearnConfig(), device, devices, quantisation)


def test_the_least_intrusive_way_that_fits_is_taken():
    sizes = (200, 80, 48, 18, 14, 4)
    ways = [planned(size) for size in sizes]
    assert [(way.fits, way.layout.checkpointing, way.layout.quantisation) for way in ways] == [
        (True, False, "none"),
        (True, False, "none"),
        (True, True, "none"),
        (True, True, "int8"),
        (True, True, "nf4"),
        (False, True, "nf4"),
    ]
    assert ways[0].micro_batch == ways[2].micro_batch == 12 > ways[1].micro_batch
    assert ways[0].least_devices == 1 < ways[3].least_devices
    assert all(way.estimate.bytes <= size * GIGABYTE for way, size in zip(ways[:5], sizes[:5], strict=True))


def test_a_base_that_is_asked_for_is_the_only_one_tried():
    assert planned(48, quantisation="nf4").layout.quantisation == "nf4"
    assert not planned(18, quantisation="none").fits
    assert planned(18, devices=2, quantisation="none").fits


@pytest.mark.parametrize("name", ["tpu", "cuda", "cuda:48", "cuda:much", "a6000:0GB", ""])
def test_a_device_that_nobody_knows_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"cuda:48GB|memory"):
        device_named(name, 1)


def test_a_card_of_unknown_make_is_taken_for_a_slow_one():
    assert device_named("cuda:48GB", 1).flop_per_second == device_named("a6000", 1).flop_per_second
    assert device_named("cuda:80gb", 1).flop_per_second == device_named("a100-80", 1).flop_per_second
    assert device_named("cuda:24GB", 1).memory == 24 * GIGABYTE
    assert device_named("cpu", 2, 7).memory == 7
    assert device_named("cpu:1GB", 2, 7).memory == GIGABYTE


def test_passes_decide_the_steps_unless_steps_are_given():
    config = UnlearnConfig(passes=10, examples_per_step=16)
    assert config.planned_steps([30, 30]) == 75  # 10 passes of 60 at 8 a step
    assert config.planned_steps([30, 1]) == 75  # the smaller domain is repeated
    assert config.planned_steps([60]) == config.planned_steps([60, 0]) == 75
    assert config.planned_steps([1]) == config.planned_steps([]) == LEAST_STEPS
    assert dataclasses.replace(config, passes=1e4).planned_steps([10_000_000]) == MOST_STEPS
    assert dataclasses.replace(config, steps=7).planned_steps([30, 30]) == 7


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 400), st.integers(1, 64))
def test_more_work_never_takes_less(items, extra, steps, micro_batch):
    config = UnlearnConfig(steps=steps if steps > 200 else 0, passes=steps, micro_batch=micro_batch)
    small = Workload(items, items * 20, items * 2, items * 40, 20, (items // 2,))
    more = items + extra
    large = Workload(more, more * 20, more * 2, more * 40, 20, (items // 2 + extra,))
    before, after = (on_ideal(load, config) for load in (small, large))
    assert after.seconds >= before.seconds
    assert after.bytes >= before.bytes


def test_an_empty_workload_and_a_dead_device():
    nothing = on_ideal(Workload(0, 0, 0, 0, 0, ()), UnlearnConfig())
    assert nothing.seconds == 0
    with pytest.raises(ValueError, match="above 0"):
        estimate(TINY, 100, LOAD, UnlearnConfig(), dataclasses.replace(IDEAL, flop_per_second=0.0))
