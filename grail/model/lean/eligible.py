"""Which models the lean path serves. Whatever is not known to be the same is an obstacle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

ADAPTER = "default"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PLAIN_FIELDS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_dropout": (0, 0.0),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
}
"""What a LoraConfig must say for its layers to be y = W x + s B A x and nothing more."""


def projections(layer: Any) -> Iterator[tuple[str, Any]]:
    """The seven linear maps of a decoder layer, LoRA layers among them, in the order of PROJECTIONS."""
    for name in PROJECTIONS:
        yield name, getattr(layer.self_attn if name[0] in "qkvo" else layer.mlp, name)


def obstacle(model: Any) -> str | None:
    """The first reason why this PeftModel has to take the general path, or None."""
    base = model.get_base_model()
    return _network(base) or _adapter(model) or _layers(model, base)


def _network(base: Any) -> str | None:
    if type(base) is not LlamaForCausalLM:
        return f"{type(base).__name__} is not a plain Llama"
    config = base.config
    rope = getattr(config, "rope_parameters", None) or {}
    facts = {
        "rope scaling": rope.get("rope_type", "default") != "default",
        "an attention bias": bool(config.attention_bias),
        "an MLP bias": bool(config.mlp_bias),
        "another activation than SiLU": config.hidden_act != "silu",
        "a sliding window": getattr(config, "sliding_window", None) is not None,
        "a quantised base": getattr(config, "quantization_config", None) is not None,
        "several devices": bool(getattr(base, "hf_device_map", None)),
    }
    return next((name for name, there in facts.items() if there), None)


def _adapter(model: Any) -> str | None:
    if list(model.peft_config) != [ADAPTER]:
        return "several adapters, or one of another name"
    config = model.peft_config[ADAPTER]
    if type(config) is not LoraConfig:
        return "an adapter that is not LoRA"
    strange = [name for name, plain in PLAIN_FIELDS.items() if getattr(config, name, plain[0]) not in plain]
    return f"LoRA with {strange[0]}" if strange else None


def _layers(model: Any, base: Any) -> str | None:
    inside = set()
    for layer in base.model.layers:
        if type(layer) is not LlamaDecoderLayer:
            return "a layer that is not a plain Llama layer"
        for name, module in projections(layer):
            inside.add(module)
            reason = _projection(module)
            if reason:
                return f"{name}: {reason}"
    if any(isinstance(module, LoraLayer) and module not in inside for module in model.modules()):
        return "an adapter outside the decoder's projections"
    weights = [parameter for name, parameter in base.named_parameters() if "lora_" not in name]
    if {weight.device.type for weight in weights} != {"cpu"}:
        # Elsewhere the general path has fused attention, and nothing of this was ever measured there.
        return "a device other than the CPU"
    kinds = {weight.dtype for weight in weights}
    return None if kinds in ({torch.bfloat16}, {torch.float32}) else "weights that are not all bf16 or all fp32"


def _projection(module: Any) -> str | None:
    plain = module
    if isinstance(module, LoraLayer):
        if type(module) is not LoraLinear or module.lora_variant or module.merged:
            return "a LoRA layer of another kind"
        if set(module.lora_A) != {ADAPTER}:
            return "a LoRA layer with other adapters"
        if not isinstance(module.lora_dropout[ADAPTER], torch.nn.Identity):
            return "dropout"
        plain = module.base_layer
    if type(plain) is not torch.nn.Linear or plain.bias is not None:
        return "not a plain linear layer without bias"
    return "hooks" if plain._forward_hooks or plain._forward_pre_hooks or hasattr(plain, "_hf_hook") else None
