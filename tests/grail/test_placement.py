"""A base spread by accelerate, or kept in fewer bits, is the same network to the rest of the library."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.localise.gradients import per_example_gradients
from grail.model import load
from grail.model.adapter import adapter_parameters
from grail.model.checkpointing import checkpointing
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel, bf16_speed, choose_precision, load_model
from grail.model.quantised import QuantisationMissing, quantisation_config

ROW = TokenisedExample("a", (10, 20, 30, 40, 50, 60), 2)
BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None


def logits(model: LoadedModel) -> torch.Tensor:
    return completion_logits(model, pad([ROW], model.pad_id, model.device))


def test_a_base_that_accelerate_places_gives_the_same_logits(
    tiny_base_directory: Path, tiny_adapter_directory: Path
) -> None:
    plain, placed = (
        load_model(tiny_base_directory, tiny_adapter_directory, precision="fp32", device_map=where)
        for where in (None, "auto")
    )
    torch.testing.assert_close(logits(placed), logits(plain))
    assert placed.device == placed.model.get_input_embeddings().weight.device


@pytest.mark.parametrize(("setting", "value"), [("device_map", "balanced"), ("quantisation", "int2")])
def test_a_placement_that_nobody_knows_is_refused(
    tiny_base_directory: Path, tiny_adapter_directory: Path, setting: str, value: str
) -> None:
    with pytest.raises(ValueError, match=f"{setting} is '{value}'"):
        load_model(tiny_base_directory, tiny_adapter_directory, **{setting: value})


@pytest.mark.skipif(BITSANDBYTES, reason="bitsandbytes is installed: nothing is missing")
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_without_bitsandbytes_the_extra_is_named(name: str) -> None:
    with pytest.raises(QuantisationMissing, match=r"grail-server\[quantised\]"):
        quantisation_config(name, torch.bfloat16)


@pytest.mark.skipif(not BITSANDBYTES, reason="bitsandbytes (the extra `quantised`) is not installed")
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_quantised_base_answers_nearly_the_same_and_the_adapter_learns(
    tiny_base_directory: Path, tiny_adapter_directory: Path, name: str
) -> None:
    plain = load_model(tiny_base_directory, tiny_adapter_directory, precision="bf16")
    small = load_model(tiny_base_directory, tiny_adapter_directory, precision="bf16", quantisation=name)
    one, other = logits(plain).flatten(), logits(small).flatten()
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9
    batch = pad([ROW], small.pad_id, small.device)
    found: dict[str, torch.Tensor] = {}
    with checkpointing(small.model, on=True), per_example_gradients(small.model, 1, found.__setitem__):
        completion_nll(completion_logits(small, batch), batch).sum().backward()
    parameters = adapter_parameters(small.model)
    assert set(found) == set(parameters)
    assert all(parameter.dtype is torch.float32 for parameter in parameters.values())
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters.values())


@pytest.mark.parametrize(("speed", "chosen"), [(2.0, torch.bfloat16), (0.5, torch.float32)])
def test_bf16_is_chosen_on_a_processor_only_where_it_is_no_slower_than_fp32(
    speed: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(load, "bf16_speed", lambda: speed)
    assert choose_precision("auto", torch.device("cpu")) is chosen
    assert choose_precision("auto", torch.device("cuda")) is torch.bfloat16
    assert choose_precision("bf16", torch.device("cpu")) is torch.bfloat16


def test_the_speed_of_bf16_is_a_positive_number_and_measured_once() -> None:
    assert 0 < bf16_speed() == bf16_speed()
