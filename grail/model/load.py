"""Load a base model with a LoRA adapter. Safetensors only; nothing is fetched from a network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grail.data.tokenise import TokenisedExample, Tokenizer, tokenise
from grail.model.adapter import AdapterState, adapter_off, read_saved, with_adapter
from grail.model.lean import attach
from grail.types import Example

DEFAULT_TEMPLATE = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(slots=True)
class LoadedModel:
    """A PeftModel in eval mode with its tokenizer and how prompts are put to it.

    `reference` are the tensors of an adapter taught the retain data alone, where one is registered.
    """

    model: Any
    tokenizer: Tokenizer
    template: str
    context_tokens: int
    device: torch.device
    precision: torch.dtype
    reference: AdapterState | None = field(default=None, repr=False)

    @property
    def pad_id(self) -> int:
        """Any id will do: labels are found by position and padded positions are masked."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def tokenise(self, example: Example) -> TokenisedExample:
        """Token ids of an example as this model is asked it. Raises TooLong."""
        return tokenise(example, self.tokenizer, self.template, self.context_tokens)


@contextmanager
def as_reference(model: LoadedModel) -> Iterator[None]:
    """The network that never knew: adapter off, or the registered reference adapter in the served one's place."""
    with adapter_off(model.model) if model.reference is None else with_adapter(model.model, model.reference):
        yield


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the hardware multiplies it natively, else fp32 (bf16 without such units is slower)."""
    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    if device.type == "cpu":
        native = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16


def load_model(
    base: Path,
    adapter: Path | None,
    *,
    template: str = DEFAULT_TEMPLATE,
    precision: str = "auto",
    device: str = "cpu",
    lora: LoraConfig | None = None,
    reference: Path | None = None,
    fast: bool = True,
) -> LoadedModel:
    """Load `base` with the adapter directory on it, or with a fresh adapter of shape `lora`.

    The base is frozen in the chosen precision; adapter tensors are fp32 masters. With `fast`, a network
    that `grail.model.lean` knows is computed by it, to the same numbers. Raises OSError when a file is missing,
    safetensors' own error when one is corrupted, ValueError when neither or both of adapter and lora are given.
    """
    if (adapter is None) == (lora is None):
        raise ValueError("give an adapter directory or the shape of a new adapter, one of the two")
    where = torch.device(device)
    dtype = choose_precision(precision, where)
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    # Measured on two cores at these short lengths: plain attention runs a training step a fifth faster than SDPA.
    attention = "eager" if where.type == "cpu" else None  # None: SDPA where the model has it
    plain = AutoModelForCausalLM.from_pretrained(
        base, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, attn_implementation=attention
    )
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is going out of use: not ours to mend, and no news to a person.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        if adapter is not None:
            model = PeftModel.from_pretrained(plain, adapter, is_trainable=True, use_safetensors=True)
        else:
            model = get_peft_model(plain, cast(Any, lora))
    for layer in model.modules():
        if hasattr(layer, "cast_input_dtype_enabled"):
            # Autocast brings the masters down to the activations; PEFT would bring these up to the masters first, each
            # time: the same numbers, a twelfth slower and with a tenth more memory.
            layer.cast_input_dtype_enabled = False
    # Generation hands the output matrix a strided last position; a 3-D product would copy the matrix once for each row.
    plain.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    model.to(where)
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    if fast:
        attach(model)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    context = int(config.max_position_embeddings)
    never = None if reference is None else read_saved(reference)
    return LoadedModel(model, cast(Tokenizer, tokenizer), template, context, where, dtype, never)
