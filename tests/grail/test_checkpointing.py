"""Layers that are computed twice give the same gradients, keep less, and wake no dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from grail.config import UnlearnConfig
from grail.data.batches import PaddedBatch, pad
from grail.data.tokenise import TokenisedExample
from grail.localise.gradients import per_example_gradients, set_statistics
from grail.model.adapter import adapter_parameters
from grail.model.checkpointing import InTrainingMode, NoLayers, checkpointing
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel, load_model


@pytest.fixture
def tiny_model(tiny_base_directory: Path, tiny_adapter_directory: Path) -> Iterator[LoadedModel]:
    """On the general path: the lean one keeps what it needs by itself."""
    yield load_model(tiny_base_directory, tiny_adapter_directory, precision="fp32", fast=False)


ROWS = [
    TokenisedExample("a", (10, 20, 30, 40, 50, 60), 2),
    TokenisedExample("b", (11, 21, 31, 41), 1),
    TokenisedExample("c", (12, 22, 32, 42, 52), 3),
]


def batch_of(model: LoadedModel) -> PaddedBatch:
    return pad(ROWS, model.pad_id, model.device)


def gradients(model: LoadedModel, *, on: bool) -> dict[str, torch.Tensor]:
    with checkpointing(model.model, on=on):
        batch = batch_of(model)
        completion_nll(completion_logits(model, batch), batch).sum().backward()
    found = {name: parameter.grad for name, parameter in adapter_parameters(model.model).items()}
    for parameter in adapter_parameters(model.model).values():
        parameter.grad = None
    return found


def test_gradients_are_the_same_to_the_bit_and_reach_every_tensor(tiny_model: LoadedModel) -> None:
    plain, twice = gradients(tiny_model, on=False), gradients(tiny_model, on=True)
    assert plain.keys() == twice.keys()
    for name, gradient in twice.items():
        assert gradient is not None and gradient.abs().max() > 0, name
        assert torch.equal(gradient, plain[name]), name


def test_b_learns_while_it_is_zero(tiny_model: LoadedModel) -> None:
    for name, parameter in adapter_parameters(tiny_model.model).items():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    found = gradients(tiny_model, on=True)
    assert all(g.abs().max() > 0 for name, g in found.items() if "lora_B" in name)


@pytest.mark.parametrize("draws", [1, 3])
def test_each_examples_own_gradient_is_handed_over_once_and_unchanged(tiny_model: LoadedModel, draws: int) -> None:
    def handed(on: bool) -> list[tuple[str, torch.Tensor]]:
        told: list[tuple[str, torch.Tensor]] = []
        with per_example_gradients(tiny_model.model, draws, lambda *pair: told.append(pair)):
            gradients(tiny_model, on=on)
        return told

    plain, twice = handed(False), handed(True)
    assert [name for name, _ in plain].count(plain[0][0]) == 1
    assert sorted(name for name, _ in plain) == sorted(name for name, _ in twice)
    expected = dict(plain)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in twice)


def test_scores_of_localisation_do_not_change(tiny_model: LoadedModel) -> None:
    found = []
    for on in (False, True):
        with checkpointing(tiny_model.model, on=on):
            found.append(set_statistics(tiny_model, ROWS, UnlearnConfig(), torch.Generator().manual_seed(4)))
    for plain, twice in zip(*found, strict=True):
        assert all(torch.equal(twice[name], value) for name, value in plain.items())


@pytest.mark.parametrize("tapped", [False, True])
def test_less_is_kept_on_the_way_forward(tiny_model: LoadedModel, tapped: bool) -> None:
    def kept(on: bool) -> int:
        seen: dict[int, int] = {}
        alive: list[torch.Tensor] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with (
            checkpointing(tiny_model.model, on=on),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            batch = batch_of(tiny_model)
            if tapped:
                with per_example_gradients(tiny_model.model, 1, lambda *_: None):
                    completion_logits(tiny_model, batch)
            else:
                completion_logits(tiny_model, batch)
        return sum(seen.values())

    weights = {p.untyped_storage().data_ptr() for p in tiny_model.model.parameters()}
    assert kept(True) < kept(False) / 3


def test_each_layer_is_computed_again_only_where_gradients_are_wanted(tiny_model: LoadedModel) -> None:
    calls: list[int] = []
    layer = tiny_model.model.get_base_model().model.layers[1]
    # Before, not after: computing again ends as soon as the last tensor that is needed is there.
    handle = layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(tiny_model, on=True)
    assert len(calls) == 2
    calls.clear()
    with checkpointing(tiny_model.model, on=True), torch.no_grad():
        completion_logits(tiny_model, batch_of(tiny_model))
    assert len(calls) == 1
    handle.remove()


def test_dropout_stays_off_and_every_layer_is_left_as_it_was(tiny_model: LoadedModel) -> None:
    before = [(module, dict(module.__dict__)) for module in tiny_model.model.modules()]
    dropout = torch.nn.Dropout(0.9).eval()
    layer = tiny_model.model.get_base_model().model.layers[0]
    handle = layer.mlp.register_forward_hook(lambda _, __, output: dropout(output))
    plain, twice = gradients(tiny_model, on=False), gradients(tiny_model, on=True)
    handle.remove()
    assert all(torch.equal(plain[name], gradient) for name, gradient in twice.items())
    with pytest.raises(KeyboardInterrupt), checkpointing(tiny_model.model, on=True):
        assert not any(module.training for module in tiny_model.model.modules())
        raise KeyboardInterrupt
    assert all("forward" not in module.__dict__ or "forward" in was for module, was in before)


@pytest.mark.parametrize("awake", [lambda m: m.train(), lambda m: m.get_base_model().model.layers[0].mlp.train()])
def test_training_mode_is_refused(tiny_model: LoadedModel, awake: Callable[[object], object]) -> None:
    awake(tiny_model.model)
    with pytest.raises(InTrainingMode, match="eval mode"), checkpointing(tiny_model.model, on=True):
        pass


def test_a_network_without_such_layers_is_refused_unless_it_is_off() -> None:
    plain = torch.nn.Linear(2, 2).eval()
    with checkpointing(plain, on=False):
        pass
    with pytest.raises(NoLayers, match="off"), checkpointing(plain, on=True):
        pass


def test_the_lean_path_steps_aside_where_layers_are_computed_twice(
    tiny_base_directory: Path, tiny_adapter_directory: Path
) -> None:
    lean = load_model(tiny_base_directory, tiny_adapter_directory, precision="fp32")
    calls: list[int] = []
    compute = lean.model.get_base_model().model.layers[1].mlp.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(lean.model.get_base_model().model.layers[1].mlp),
            "forward",
            lambda self, x: calls.append(1) or compute(x),
        )
        gradients(lean, on=False)
        assert not calls
        gradients(lean, on=True)
        assert calls
