"""The lean path through a Llama gives what transformers and PEFT give, and steps aside where it might not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from grail.config import UnlearnConfig
from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.localise.gradients import per_example_gradients, set_statistics
from grail.localise.regions import top
from grail.model.adapter import adapter_off, adapter_parameters, read_state, with_adapter, write_state
from grail.model.forward import completion_hidden, completion_logits, completion_nll, example_nll
from grail.model.lean import attach, lean_of, likelihood
from grail.model.lean.eligible import PROJECTIONS
from grail.model.lean.layout import lay_out
from grail.model.load import LoadedModel, load_model
from grail.objectives import descent
from grail.train import make_side, take_step
from grail.types import Segment

BOS, EOS = 256, 257
TIGHT = {"rtol": 1e-4, "atol": 2e-6}

lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5)
targets = st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=7, unique=True)
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pair(base: Path, names: Sequence[str] = PROJECTIONS, rank: int = 4, precision: str = "fp32") -> list[LoadedModel]:
    """The same model twice, lean and general, with the same random adapter."""
    models = []
    for fast in (True, False):
        shape = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=list(names), task_type="CAUSAL_LM")
        model = load_model(base, None, precision=precision, lora=shape, fast=fast)
        write_state(model.model, random_state(model, 1))
        models.append(model)
    assert lean_of(models[0].model) and lean_of(models[1].model) is None
    return models


def random_state(model: LoadedModel, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = read_state(model.model)
    return {name: torch.randn(tensor.shape, generator=generator) * 0.05 for name, tensor in state.items()}


def rows_of(sizes: Sequence[tuple[int, int]], seed: int) -> list[TokenisedExample]:
    """Rows over few different tokens, so that many begin alike."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, (prompt, completion) in enumerate(sizes):
        ids = torch.randint(65, 68, (prompt + completion,), generator=generator).tolist()
        rows.append(TokenisedExample(str(number), (*ids, EOS), prompt))
    return rows


def gradients(model: LoadedModel, rows: Sequence[TokenisedExample]) -> dict[str, torch.Tensor]:
    """Gradients of the sum of squared losses (each row's weight differs)."""
    batch = pad(rows, model.pad_id)
    completion_nll(completion_logits(model, batch), batch).square().sum().backward()
    found = {}
    for name, parameter in adapter_parameters(model.model).items():
        assert parameter.grad is not None
        found[name], parameter.grad = parameter.grad, None
    return found


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float = 1e-4) -> None:
    """Equal tensor by tensor, relative to each tensor's largest entry; where one path gives 0 exactly (a single token's
    query has no gradient), the other's rounding is some 5e-8."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        bound = rtol * float(tensor.abs().max()) + 1e-7
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=bound, msg=lambda text, of=name: f"{of}: {text}")


@given(sizes=lengths, names=targets, rank=st.integers(1, 16), seed=st.integers(0, 1000))
@quick
def test_states_and_gradients_are_those_of_the_general_path(
    tiny_base_directory: Path, sizes: list[tuple[int, int]], names: list[str], rank: int, seed: int
) -> None:
    lean, general = pair(tiny_base_directory, names, rank)
    rows = rows_of(sizes, seed)
    batch = pad(rows, lean.pad_id)
    torch.testing.assert_close(completion_hidden(lean, batch), completion_hidden(general, batch), **TIGHT)
    with torch.no_grad():
        torch.testing.assert_close(completion_hidden(lean, batch), completion_hidden(general, batch), **TIGHT)
    close(gradients(lean, rows), gradients(general, rows))


@given(sizes=lengths, names=targets, draws=st.integers(1, 3), seed=st.integers(0, 1000))
@quick
def test_each_examples_own_gradients_are_those_of_the_general_path(
    tiny_base_directory: Path, sizes: list[tuple[int, int]], names: list[str], draws: int, seed: int
) -> None:
    lean, general = pair(tiny_base_directory, names)
    groups = []
    for number, row in enumerate(rows_of(sizes, seed)):
        changed = rows_of([(row.prompt_length, row.completion_length)] * draws, seed + number)
        prompt = row.input_ids[: row.prompt_length]
        groups += [
            TokenisedExample(row.id, prompt + other.input_ids[len(prompt) : len(row.input_ids)], len(prompt))
            for other in changed
        ]
    found: list[dict[str, torch.Tensor]] = []
    for model in (lean, general):
        found.append({})
        with per_example_gradients(model.model, draws, found[-1].__setitem__):
            batch = pad(groups, model.pad_id)
            completion_nll(completion_logits(model, batch), batch).sum().backward()
    close(*found)
    assert all(tensor.shape[0] == len(sizes) and tensor.dtype == torch.float32 for tensor in found[0].values())


@given(sizes=lengths, scale=st.sampled_from([1.0, 300.0]), chunk=st.integers(1, 1000), seed=st.integers(0, 1000))
@quick
def test_the_likelihood_made_in_pieces_is_cross_entropy(
    sizes: list[tuple[int, int]], scale: float, chunk: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(40, 8, generator=generator) * scale  # a label may be so unlikely that its share is 0
    states = [torch.randn(len(sizes), 8, generator=torch.Generator().manual_seed(seed)) for _ in range(2)]
    labels = torch.randint(40, (len(sizes),), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "CHUNK_ENTRIES", chunk)
        found = likelihood.position_nll(states[0].requires_grad_(), weight, labels)
    expected = F.cross_entropy(states[1].requires_grad_() @ weight.t(), labels, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for values in (found, expected):
        (values * torch.arange(1.0, len(sizes) + 1)).sum().backward()
    torch.testing.assert_close(states[0].grad, states[1].grad, rtol=1e-4, atol=1e-5 * scale)


def test_an_examples_likelihood_is_that_of_its_logits(tiny_base_directory: Path) -> None:
    for model in pair(tiny_base_directory):
        batch = pad(rows_of([(4, 9), (2, 5)], 5), model.pad_id)
        with torch.no_grad():
            expected = completion_nll(completion_logits(model, batch), batch)
            torch.testing.assert_close(example_nll(model, batch), expected, rtol=1e-5, atol=1e-6)


def test_a_passage_without_a_prompt_is_scored_alike(tiny_base_directory: Path) -> None:
    lean, general = pair(tiny_base_directory)
    rows = [TokenisedExample("a", (BOS, 65, 66, 67, EOS), 1), TokenisedExample("b", (BOS, 65, 66, EOS), 1)]
    close(gradients(lean, rows), gradients(general, rows))


def test_rows_that_are_equal_are_computed_once_and_each_has_its_gradient(tiny_base_directory: Path) -> None:
    lean, general = pair(tiny_base_directory)
    row = rows_of([(3, 6)], 0)[0]
    assert len(lay_out(pad([row, row, row], 0), None).tokens) == len(row.input_ids) - 1
    close(gradients(lean, [row, row, row]), gradients(general, [row, row, row]))


def test_the_draws_of_an_example_share_their_prompt_with_each_other_alone() -> None:
    rows = [
        TokenisedExample(str(last), (65, 66, 67, last, 70, EOS), 3)
        for last in (71, 72, 73, 74)
    ]  # fmt: skip
    apart, together = lay_out(pad(rows, 0), 2), lay_out(pad(rows, 0), None)
    assert apart.bounds == (0, 7, 14)  # three shared tokens and two of each draw; the eos predicts nothing
    assert len(together.tokens) == 3 + 4 * 2


@pytest.mark.parametrize("state", ["off", "reference"])
def test_the_reference_is_the_same_network(tiny_base_directory: Path, state: str) -> None:
    lean, general = pair(tiny_base_directory)
    batch = pad(rows_of([(4, 7), (2, 5)], 3), lean.pad_id)
    before = completion_hidden(lean, batch)
    found = []
    for model in (lean, general):
        other = adapter_off(model.model) if state == "off" else with_adapter(model.model, random_state(model, 2))
        with torch.no_grad(), other:
            found.append(completion_hidden(model, batch))
    torch.testing.assert_close(*found, **TIGHT)
    assert (found[0] - before).abs().max() > 1e-3
    assert torch.equal(completion_hidden(lean, batch), before)


def test_bf16_is_as_near_to_fp32_as_the_general_path_is(tiny_base_directory: Path) -> None:
    rows = rows_of([(4, 9), (2, 5), (5, 8)], 7)
    exact = pair(tiny_base_directory)[1]
    lean, general = pair(tiny_base_directory, precision="bf16")
    batch = pad(rows, lean.pad_id)
    with torch.no_grad():
        wanted = completion_hidden(exact, batch)
        states = [completion_hidden(model, batch).float() for model in (lean, general)]
    errors = [float((state - wanted).norm() / wanted.norm()) for state in states]
    assert errors[0] < max(0.01, 1.5 * errors[1])
    wanted_gradients = gradients(exact, rows)
    for model in (lean, general):
        for name, tensor in gradients(model, rows).items():
            assert float((tensor - wanted_gradients[name]).norm() / wanted_gradients[name].norm()) < 0.06, name


def test_bf16_regions_share_nearly_all_entries_with_fp32_ones(tiny_base_directory: Path) -> None:
    exact, half = pair(tiny_base_directory)[0], pair(tiny_base_directory, precision="bf16")[0]
    rows = rows_of([(4, 9)] * 6 + [(3, 12)] * 6, 9)
    tops = []
    for model in (exact, half):
        scores, _ = set_statistics(model, rows, UnlearnConfig(), torch.Generator().manual_seed(3))
        tops.append({name: top(tensor, 0.2) for name, tensor in scores.items()})
    shared = sum(int((tops[0][name] & tops[1][name]).sum()) for name in tops[0])
    assert shared >= 0.95 * sum(int(mask.sum()) for mask in tops[0].values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_repeated_passes_are_bit_identical(tiny_base_directory: Path, precision: str) -> None:
    lean = pair(tiny_base_directory, precision=precision)[0]
    rows = rows_of([(4, 9), (2, 5), (5, 8), (4, 9)], 5)
    first, second = gradients(lean, rows), gradients(lean, rows)
    assert all(torch.equal(first[name], second[name]) for name in first)
    found = [set_statistics(lean, rows, UnlearnConfig(), torch.Generator().manual_seed(1)) for _ in range(2)]
    for one, again in zip(*found, strict=True):
        assert all(torch.equal(one[name], again[name]) for name in one)


def test_an_update_does_not_depend_on_the_micro_batch(tiny_base_directory: Path) -> None:
    rows = rows_of([(3, 8), (2, 5), (5, 9), (1, 4), (4, 4), (3, 3)], 4)
    moved = []
    for size in (1, 4, 12):
        lean = pair(tiny_base_directory)[0]
        side = make_side(Segment.RETAIN, {("privacy", Segment.RETAIN): rows}, descent, 1.0, None, 6, 0)
        optimiser = torch.optim.SGD(adapter_parameters(lean.model).values(), lr=1.0)
        take_step(lean, [side], optimiser, UnlearnConfig(micro_batch=size), 0)
        moved.append(read_state(lean.model))
    for other in moved[1:]:
        close(other, moved[0])


def test_the_base_is_held_once_and_transformers_still_reads_it(tiny_base_directory: Path) -> None:
    lean, general = pair(tiny_base_directory)
    decoder = lean_of(lean.model)
    assert decoder is not None
    for layer, own in zip(decoder.layers, lean.model.get_base_model().model.layers, strict=True):
        fused = layer.qkv.weight.untyped_storage().data_ptr()
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = getattr(own.self_attn, name).base_layer.weight
            assert weight.untyped_storage().data_ptr() == fused and weight.is_contiguous()
    for (name, one), (_, other) in zip(
        lean.model.state_dict().items(), general.model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_backward_pass_without_a_forward_pass_is_refused(tiny_base_directory: Path) -> None:
    lean = pair(tiny_base_directory)[0]
    batch = pad(rows_of([(3, 4)], 0), lean.pad_id)
    loss = completion_hidden(lean, batch).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="forward pass again"):
        loss.backward()


def test_an_adapter_merged_into_the_base_takes_the_general_path(tiny_base_directory: Path) -> None:
    lean, general = pair(tiny_base_directory)
    batch = pad(rows_of([(3, 4)], 0), lean.pad_id)
    lean.model.merge_adapter()
    decoder = lean_of(lean.model)
    assert decoder is not None and decoder.completion_hidden(batch) is None
    with torch.no_grad():
        torch.testing.assert_close(
            completion_hidden(lean, batch), completion_hidden(general, batch), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("watched", ["model", "model.layers.1", "model.layers.0.mlp"])
def test_whoever_watches_a_module_sees_it_called(tiny_base_directory: Path, watched: str) -> None:
    lean, general = pair(tiny_base_directory)
    rows, calls = rows_of([(3, 4), (2, 6)], 0), []
    expected = gradients(lean, rows)
    handle = lean.model.get_base_model().get_submodule(watched).register_forward_hook(lambda *_: calls.append(1))
    found: list[dict[str, torch.Tensor]] = []
    close(gradients(lean, rows), expected)
    for model in (lean, general):
        found.append({})
        with per_example_gradients(model.model, 1, found[-1].__setitem__):
            batch = pad(rows, model.pad_id)
            completion_nll(completion_logits(model, batch), batch).sum().backward()
    assert len(calls) == 2
    close(*found)
    handle.remove()
    completion_hidden(lean, pad(rows, lean.pad_id))
    assert len(calls) == 2


PEFTS_OWN = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip


def llama(**changes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes}))


def lora(base: Any, **changes: Any) -> Any:
    return get_peft_model(base, LoraConfig(**{"r": 2, "target_modules": list(PROJECTIONS), **changes}))


def with_second_adapter() -> Any:
    model = lora(llama())
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    return model


def hooked() -> Any:
    base = llama()
    base.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: None)
    return lora(base)


ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
OBSTACLES: dict[str, tuple[Callable[[], Any], str]] = {
    "rope scaling": (lambda: lora(llama(rope_parameters=ROPE)), "rope"),
    "attention bias": (lambda: lora(llama(attention_bias=True)), "attention bias"),
    "MLP bias": (lambda: lora(llama(mlp_bias=True)), "MLP bias"),
    "another activation": (lambda: lora(llama(hidden_act="gelu")), "SiLU"),
    "another family": (lambda: lora(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8))), "Mistral"),
    "dropout": (lambda: lora(llama(), lora_dropout=0.1), "lora_dropout"),
    "DoRA": (lambda: lora(llama(), use_dora=True), "use_dora"),
    "trained biases": (lambda: lora(llama(), bias="lora_only"), "bias"),
    "a module to save": (lambda: lora(llama(), modules_to_save=["lm_head"]), "modules_to_save"),
    "several adapters": (with_second_adapter, "several adapters"),
    "an adapted output matrix": (lambda: lora(llama(), target_modules=["q_proj", "lm_head"]), "outside"),
    "hooks": (hooked, "hooks"),
    "mixed precisions": (lambda: lora(mixed()), "bf16"),
    "an adapter of another name": (
        lambda: get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="mine"), "name",
    ),
}  # fmt: skip


def mixed() -> Any:
    base = llama()
    base.model.norm.to(torch.bfloat16)
    return base


@PEFTS_OWN
@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_is_not_known_to_be_the_same_takes_the_general_path(kind: str) -> None:
    make, reason = OBSTACLES[kind]
    model = make()
    said = attach(model)
    assert said is not None and reason in said
    assert lean_of(model) is None


@PEFTS_OWN
def test_a_plain_llama_has_no_obstacle() -> None:
    assert attach(lora(llama(), use_rslora=True)) is None
