"""The adapter's tensors: reading and writing them, and looking at the network without them.

`reference` means adapter off (or a registered retain-only adapter); `original` the starting adapter. Neither needs a
second copy of the base model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"
SAVED = torch.bfloat16
AdapterState = dict[str, torch.Tensor]
"""Adapter tensors by PEFT's own saved name (`base_model.model...lora_A.weight`), fp32, on the CPU."""


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The LoRA parameters of a PeftModel in a fixed order, keyed as PEFT saves them (without the adapter's name).

    These are the live parameters: (r, in) for lora_A, (out, r) for lora_B.
    """
    found = {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name and ".default." in name
    }
    return dict(sorted(found.items()))


def read_state(model: Any) -> AdapterState:
    """A copy of the adapter's tensors."""
    return {name: parameter.detach().float().cpu().clone() for name, parameter in adapter_parameters(model).items()}


@torch.no_grad()
def write_state(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Put tensors into the adapter. Raises KeyError for a missing name, ValueError for another shape."""
    for name, parameter in adapter_parameters(model).items():
        if state[name].shape != parameter.shape:
            raise ValueError(f"{name}: expected shape {tuple(parameter.shape)}, found {tuple(state[name].shape)}")
        parameter.copy_(state[name])


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The network as the base model alone."""
    with model.disable_adapter():
        yield


@contextmanager
def with_adapter(model: Any, state: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The network with another adapter's tensors; the present ones come back afterwards."""
    present = read_state(model)
    write_state(model, state)
    try:
        yield
    finally:
        write_state(model, present)


def read_saved(directory: Path) -> AdapterState:
    """The tensors of a PEFT directory. Raises OSError when the file is missing, SafetensorError when it is damaged."""
    return {name: tensor.float() for name, tensor in sorted(load_file(directory / WEIGHTS).items())}


def as_saved(state: Mapping[str, torch.Tensor]) -> AdapterState:
    """What a state is after it was saved and loaded again: adapters are kept in bf16."""
    return {name: tensor.to(SAVED).float() for name, tensor in state.items()}


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and fp32 bytes: equal digests mean bit-equal adapters."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().float().cpu().contiguous()
        total.update(f"{name}:{tuple(tensor.shape)};".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def save_adapter(model: Any, directory: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a PEFT directory (adapter_config.json, adapter_model.safetensors in bf16) that `PeftModel.from_pretrained`
    loads. Keeps no path of this machine: the base is named by its directory's name only."""
    tensors = read_state(model) if state is None else state
    directory.mkdir(parents=True, exist_ok=True)
    config = model.peft_config["default"].to_dict()
    config["base_model_name_or_path"] = Path(str(config["base_model_name_or_path"])).name
    config["inference_mode"] = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    (directory / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    packed = {name: tensor.to(SAVED).contiguous() for name, tensor in sorted(tensors.items())}
    save_file(packed, directory / WEIGHTS, metadata={"format": "pt"})
