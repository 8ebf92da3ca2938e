"""Peak bytes of each stage, part by part, on one device of those that the layers are spread over.

Checked part by part against what autograd saves (torch.autograd.graph.saved_tensors_hooks) in a Llama with LoRA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grail.config import UnlearnConfig
from grail.plan.devices import Device
from grail.plan.seconds import FORWARD_ROWS, FORWARD_TOKENS
from grail.plan.shape import ModelShape, Workload

RUNTIME_BYTES = 450_000_000
"""Interpreter, learning stack and tokenizer before the first weight."""
CONTEXT_BYTES = 700_000_000
"""CUDA's context and workspaces on each card."""
ALLOCATOR_SLACK = 1.5
"""glibc keeps freed blocks between live ones: so much more than is in use is held after many passes of differing
sizes. With MALLOC_MMAP_THRESHOLD_=65536, which gives every block back, the surplus is gone (and speed with it)."""
CACHING_SLACK = 1.1
"""The same of torch's allocator on a GPU."""
QUANTISED_BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes a weight: nf4 has one fp32 scale for each 64 weights, int8 one for each row (nothing beside it)."""
LOGIT_BYTES = 28
"""fp32 and base-precision tensors of one logit at the peak of a step under `calibrated`: logits, both log-softmaxes,
the divergence with its temporaries, the gradient."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the base lies on devices: `none`, `int8` or `nf4`; its layers spread over `devices`; with or without
    activation checkpointing. `width` is bytes a weight and an activation outside of a quantised base."""

    width: int
    quantisation: str = "none"
    checkpointing: bool = False
    devices: int = 1


def weight_bytes(shape: ModelShape, layout: Layout) -> int:
    """All weights of the base, over all devices. Projections may be quantised; embeddings, norms and the output matrix
    stay as they are."""
    each = QUANTISED_BYTES.get(layout.quantisation, float(layout.width))
    return int(shape.projected * each) + (shape.parameters - shape.projected) * layout.width


def layer_bytes(shape: ModelShape, rank: float, length: float, width: int, eager: bool) -> float:
    """What autograd keeps of one token in one layer with LoRA.

    Two norms' fp32 inputs 8 h; inputs of the projections (twice h, once q) and queries, keys, values in w bytes; the
    MLP's gate, its activation, up and their product 4 i w; LoRA's inner activations 7 r w; with eager attention its
    weights, fp32 and in bf16 a copy of them, heads * T * (4 or 6).
    """
    inner = 2 * shape.hidden + shape.queries + 3 * shape.queries + 4 * shape.inner + 7 * rank
    attention = shape.heads * length * (6 if width == 2 else 4) if eager else 0.0
    return 8 * shape.hidden + width * inner + attention


def stage_bytes(
    shape: ModelShape, entries: int, load: Workload, config: UnlearnConfig, device: Device, layout: Layout
) -> dict[str, dict[str, int]]:
    """Bytes on the fullest device while loading, localising, training and evaluating, part by part.

    Layers are spread evenly; the output matrix and its logits lie on one device. What a GPU does not hold (scores of
    finished sets, kept states of the adapter) lies in the machine's memory and is not counted there.
    """
    base = weight_bytes(shape, layout)
    part = 1 / layout.devices
    whole = {
        "runtime": CONTEXT_BYTES if device.is_gpu else RUNTIME_BYTES,
        "weights": math.ceil(base * part),
    }
    stages = {
        "localise": _localise(shape, entries, load, config, device, layout),
        "train": _train(shape, entries, load, config, device, layout),
        "evaluate": _evaluate(shape, entries, load, device, layout),
    }
    slack = CACHING_SLACK if device.is_gpu else ALLOCATOR_SLACK
    found = {name: whole | {k: math.ceil(v) for k, v in _slack(parts, slack).items()} for name, parts in stages.items()}
    if not device.is_gpu and shape.stored_bytes != layout.width:
        # The file is mapped while it is converted, and mapped pages count as held.
        found = {"load": whole | {"file": shape.parameters * shape.stored_bytes}} | found
    return found


def _slack(parts: dict[str, float], slack: float) -> dict[str, float]:
    """Activations and logits come and go; what stays is packed tightly."""
    return {name: value * (slack if name in {"activations", "logits"} else 1.0) for name, value in parts.items()}


def _passing(shape: ModelShape, entries: int, rows: int, load: Workload, device: Device, layout: Layout) -> float:
    """Activations of a pass over `rows` of the longest rows whose gradient is wanted, on one device.

    Without checkpointing every layer's are kept, and one layer's signals flow back; with it the fp32 input of each
    layer, and one layer's activations and signals. In bf16 autocast keeps a copy of the adapter; a quantised base is
    spread out one projection at a time.
    """
    tokens, layers = rows * load.longest_tokens, shape.layers / layout.devices
    sizes = shape.layers * sum(i + o for i, o in shape.linears.values())
    each = tokens * layer_bytes(shape, entries / sizes, load.longest_tokens, layout.width, device.eager)
    kept = layers * tokens * shape.hidden * 4 + each if layout.checkpointing else layers * each
    copies = 2 * entries / layout.devices if layout.width == 2 else 0.0
    spread = max(i * o for i, o in shape.linears.values()) * 2 if layout.quantisation != "none" else 0.0
    return kept + each + copies + spread


def _localise(
    shape: ModelShape, entries: int, load: Workload, config: UnlearnConfig, device: Device, layout: Layout
) -> dict[str, float]:
    examples = min(max(1, config.micro_batch // config.draws), max(load.items, 1))
    rows = examples * config.draws
    sets = 2 * max(1, sum(1 for count in load.forget_items if count))
    here = 1 if device.is_gpu else 1 + sets
    predicted = rows * load.longest_tokens * load.completion_share
    largest = (
        max(max(i, o) for i, o in shape.linears.values())
        * entries
        / sum(shape.layers * (i + o) for i, o in shape.linears.values())
    )
    return {
        "adapter": entries * 4 * (2 if device.is_gpu else 3) / layout.devices,
        "scores": entries * 4 * here / layout.devices + examples * largest * 12,
        "activations": _passing(shape, entries, rows, load, device, layout),
        "logits": predicted * shape.vocabulary * (16 + layout.width),
    }


def _train(
    shape: ModelShape, entries: int, load: Workload, config: UnlearnConfig, device: Device, layout: Layout
) -> dict[str, float]:
    """Adapter: value, gradient, contribution, their sum and two moments; in the machine's memory also the starting, the
    first and the best state. Masks: two bytes an entry."""
    half = config.examples_per_step - config.examples_per_step // 2
    rows = min(config.micro_batch, half, max(load.items, 1))
    predicted = rows * load.longest_tokens * load.completion_share
    return {
        "adapter": entries * 4 * (6 if device.is_gpu else 9) / layout.devices,
        "masks": 2.0 * entries / layout.devices,
        "activations": _passing(shape, entries, rows, load, device, layout),
        "logits": predicted * shape.vocabulary * LOGIT_BYTES,
    }


def _evaluate(
    shape: ModelShape, entries: int, load: Workload, device: Device, layout: Layout
) -> dict[str, float]:
    """Nothing is kept but the layer at hand and, in free answers, keys and values; logits stay within 128 MiB
    (grail.metrics.likelihood.LOGIT_BYTES and its log-softmax)."""
    rows = min(FORWARD_ROWS, max(load.scored, 1))
    tokens = min(FORWARD_TOKENS, rows * load.longest_tokens)
    length = load.longest_tokens
    layer = tokens * layer_bytes(shape, 0, length, layout.width, device.eager)
    cache = tokens * 2 * shape.keys * layout.width * shape.layers / layout.devices
    predicted = tokens * load.completion_share
    return {
        "adapter": entries * 4 * (1 if device.is_gpu else 3) / layout.devices,
        "activations": layer + cache,
        "logits": min(predicted * shape.vocabulary * 8, 2**27),
    }
