"""Load a base model with a LoRA adapter. Safetensors only; nothing is fetched from a network."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grail.data.tokenise import TokenisedExample, Tokenizer, tokenise
from grail.model.adapter import AdapterState, adapter_off, read_saved, with_adapter
from grail.model.lean import attach
from grail.model.quantised import quantisation_config
from grail.types import Example

LEAST_BF16_SPEED = 0.8
"""Below this many times fp32's speed bf16 costs more than its smaller memory is worth on a processor."""
DEFAULT_TEMPLATE = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(slots=True)
class LoadedModel:
    """A PeftModel in eval mode with its tokenizer and how prompts are put to it.

    `device` is where token ids and labels go: the device of the embeddings, where layers are spread over several.
    `reference` are the tensors of an adapter taught the retain data alone, where one is registered.
    """

    model: Any
    tokenizer: Tokenizer
    template: str
    context_tokens: int
    device: torch.device
    precision: torch.dtype
    reference: AdapterState | None = field(default=None, repr=False)
    quantisation: str = "none"

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
    """The base's precision: `auto` is bf16, which takes half the memory, but on a processor only where it multiplies
    bf16 natively and about as fast as fp32 (some do at half the rate, their instruction set notwithstanding)."""
    if name == "fp32":
        return torch.float32
    if name == "bf16" or device.type != "cpu":
        return torch.bfloat16
    native = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native and bf16_speed() >= LEAST_BF16_SPEED else torch.float32


@lru_cache(maxsize=1)
def bf16_speed() -> float:
    """How many times as fast this processor multiplies bf16 matrices as fp32 ones: the best of a few products by turns,
    some 50 ms in all, once a process."""
    left, right = (torch.ones(size) for size in ((512, 1024), (1024, 1024)))

    def seconds(dtype: torch.dtype) -> float:
        one, other = left.to(dtype), right.to(dtype)
        start = time.perf_counter()
        torch.mm(one, other)
        return time.perf_counter() - start

    turns = [(seconds(torch.float32), seconds(torch.bfloat16)) for _ in range(6)]
    return min(plain for plain, _ in turns) / min(half for _, half in turns)


def lora_shape(rank: int) -> LoraConfig:
    """A new adapter: LoRA on all linear layers, scaled by 2, without dropout."""
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )


def load_model(
    base: Path,
    adapter: Path | None,
    *,
    template: str = DEFAULT_TEMPLATE,
    precision: str = "auto",
    device: str = "cpu",
    lora: LoraConfig | None = None,
    reference: Path | None = None,
    device_map: str | None = None,
    quantisation: str = "none",
    fast: bool = True,
) -> LoadedModel:
    """Load `base` with the adapter directory on it, or with a fresh adapter of shape `lora`.

    The base is frozen in the chosen precision; adapter tensors are fp32 masters. `device_map` "auto" spreads the layers
    over all devices that there are (accelerate), for models larger than one; `device` then names their kind alone.
    `quantisation` "int8" or "nf4" keeps the base's projections in 8 or 4 bits (bitsandbytes). With `fast`, a
    network that `grail.model.lean` knows is computed by it, to the same numbers. Raises OSError when a file is missing,
    safetensors' own error when one is corrupted, QuantisationMissing, ValueError when neither or both of adapter and
    lora are given or when a name is not known.
    """
    if (adapter is None) == (lora is None):
        raise ValueError("give an adapter directory or the shape of a new adapter, one of the two")
    if device_map not in (None, "auto"):
        raise ValueError(f"device_map is {device_map!r}: it must be None (one device) or auto (all that there are)")
    where = torch.device(device)
    dtype = choose_precision(precision, where)
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    # Measured on two cores at these short lengths: plain attention runs a training step a fifth faster than SDPA.
    attention = "eager" if where.type == "cpu" else None  # None: SDPA where the model has it
    quantised = quantisation_config(quantisation, dtype)
    # A quantised base can not be moved once it is loaded: it is put in its place while it is read.
    places = device_map or ({"": device} if quantised is not None else None)
    plain = AutoModelForCausalLM.from_pretrained(
        base,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation=attention,
        device_map=places,
        quantization_config=quantised,
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
    if places is None:
        model.to(where)
    model.eval()
    _freeze_base(model)
    if fast:
        attach(model)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    context = int(config.max_position_embeddings)
    never = None if reference is None else read_saved(reference)
    entry = where if places is None else plain.get_input_embeddings().weight.device
    return LoadedModel(model, cast(Tokenizer, tokenizer), template, context, entry, dtype, never, quantisation)


def _freeze_base(model: Any) -> None:
    """The adapter alone learns, in fp32."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()


def ordinary_tokens(model: LoadedModel) -> torch.Tensor:
    """Ids (V',) of the vocabulary that are not special."""
    size = int(model.model.config.vocab_size)
    keep = torch.ones(size, dtype=torch.bool)
    keep[[token for token in model.tokenizer.all_special_ids if token < size]] = False
    return keep.nonzero().flatten()
