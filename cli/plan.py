"""`grail plan`: seconds and memory of a job from first principles, before anything is computed or loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import typer

from cli.facts import Fact, read_facts
from cli.failures import CommandFailed
from cli.models import read_object, settings_of
from cli.plan_view import Question, as_json, show_plan
from cli.show import show_json
from grail.config import PRECISIONS, UnlearnConfig
from grail.plan import NAMED_SHAPES, Device, ModelShape, Workload, device_named
from grail.plan import plan as choose
from grail.plan.devices import CPU_UTILISATION
from grail.plan.fit import QUANTISATIONS, effective

CHARACTERS_A_TOKEN = 4.0
"""Rule of thumb for English text where no tokenizer is at hand."""
TEMPLATE_TOKENS = 12
"""What a chat template adds to a prompt."""
COMPLETION_SHARE = 0.5
"""Share of predicted tokens where only counts are given."""
PRODUCT = 1024
PRODUCT_SECONDS = 0.5
LEAST_PRODUCTS = 3
"""The first one sets things up; a busy machine may take PRODUCT_SECONDS for it alone."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a batch brings, and how its tokens were counted."""

    load: Workload
    how: str


def plan(
    model: Annotated[str, typer.Option(help=f"A model directory, or one of {', '.join(NAMED_SHAPES)}.")],
    adapter: Annotated[Path | None, typer.Option(help="PEFT directory; else --rank on all linear layers.")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="JSONL of facts, as examples/people.jsonl.", exists=True)
    ] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Items instead of a file, half of them to forget.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Mean tokens of such an item.")] = 45,
    policy_setting: Annotated[
        list[str] | None, typer.Option(help="A training setting, NAME=VALUE; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cpu:24GB, a6000, l40s, a100-80, h100 or cuda:48GB.")] = "cpu",
    devices: Annotated[int, typer.Option(min=1, help="Devices that the layers may be spread over.")] = 1,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    quantisation: Annotated[str, typer.Option(help="auto, or none, int8 or nf4 and no other.")] = "auto",
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank where no adapter is named.")] = 16,
    measure: Annotated[bool, typer.Option(help="Measure this processor by a short matrix product.")] = False,
    as_json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how long a job takes, what memory it needs, and with which settings it fits; nothing is loaded."""
    bf16 = not device.lower().startswith("cpu") or _native_bf16(measure=measure)
    config = _config(policy_setting or [], precision, bf16=bf16)
    shape = _shape(model)
    entries = _entries(shape, adapter, rank)
    counted = _counted(model, requests, items, tokens)
    where = _device(device, config.precision, measure=measure)
    if quantisation not in ("auto", *QUANTISATIONS):
        raise CommandFailed(f"no base is called {quantisation!r}", f"Name auto or one of {', '.join(QUANTISATIONS)}.")
    base = None if quantisation == "auto" else quantisation
    found = choose(shape, entries, counted.load, config, where, devices, base)
    question = Question(model, shape, entries, counted.load, counted.how, config, where, devices)
    if as_json_:
        show_json(as_json(question, found))
    else:
        show_plan(question, found)


def _config(pairs: Sequence[str], precision: str, *, bf16: bool) -> UnlearnConfig:
    """Training settings, defaults but for those named. Raises CommandFailed that names the wrong one."""
    found = settings_of(list(pairs), "--policy-setting")
    given = {"precision": precision, **found.pop("unlearn", {}), **found}  # with or without `unlearn.` in front
    known = {field.name for field in fields(UnlearnConfig)}
    if strangers := sorted(set(given) - known):
        raise CommandFailed(f"{strangers[0]!r} names no training setting", f"Known: {', '.join(sorted(known))}.")
    try:
        return effective(UnlearnConfig(**given), bf16=bf16)
    except (TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else "a setting has the wrong kind of value"
        raise CommandFailed(reason, f"Precisions are {', '.join(PRECISIONS)}; numbers are plain numbers.") from None


def _native_bf16(*, measure: bool) -> bool:
    """Whether `auto` comes to bf16 on this processor: where it multiplies it itself (taken not to on others than Linux
    on x86-64) and, which only a measurement tells, not much slower than fp32."""
    flags = Path("/proc/cpuinfo")
    native = flags.is_file() and "avx512_bf16" in flags.read_text(encoding="ascii", errors="replace")
    if not (native and measure):
        return native
    from grail.model.load import LEAST_BF16_SPEED, bf16_speed

    return bf16_speed() >= LEAST_BF16_SPEED


def _shape(model: str) -> ModelShape:
    """Sizes of a named shape, or of a model directory."""
    if model in NAMED_SHAPES:
        return NAMED_SHAPES[model]
    config = Path(model).expanduser() / "config.json"
    if not config.is_file():
        raise CommandFailed(
            f"{model} is neither a directory with a config.json nor a known shape",
            f"Name the directory of a model in transformers' form, or one of {', '.join(NAMED_SHAPES)}.",
        )
    try:
        return ModelShape.from_config(read_object(config))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise CommandFailed(
            f"{config} does not describe a decoder with gated MLPs", "Plans are made for models of the Llama kind."
        ) from None


def _entries(shape: ModelShape, adapter: Path | None, rank: int) -> int:
    """Entries of the adapter, as its configuration says or as `rank` gives on all linear layers."""
    if adapter is None:
        return shape.adapter_entries(rank)
    config = adapter / "adapter_config.json"
    if not config.is_file():
        raise CommandFailed(f"{adapter} holds no adapter_config.json", "Name the directory of a PEFT adapter.")
    found = read_object(config)
    if not isinstance(found.get("r"), int) or found["r"] < 1:
        raise CommandFailed(f"{config} names no rank", "Plans are made for LoRA adapters.")
    return shape.adapter_entries(found["r"], found.get("target_modules"))


def _counted(model: str, requests: Path | None, items: int | None, tokens: int) -> Counted:
    """The work of a file of facts, or of a number of items."""
    if (requests is None) == (items is None):
        raise CommandFailed(
            "nothing to plan for", "Give --requests FILE.jsonl or --items N --tokens T, one of the two."
        )
    if items is not None:
        forget = max(1, items // 2)
        load = Workload(items, items * tokens, items, items * tokens, 2 * tokens, (forget,), COMPLETION_SHARE)
        return Counted(
            load, f"{items} items of {tokens} tokens, half to forget, half predicted, the longest twice that"
        )
    facts = read_facts(requests) if requests else []
    if not facts:
        raise CommandFailed(f"{requests} holds no fact", "Write one fact on each line, as in examples/people.jsonl.")
    return _of_facts(facts, Path(model).expanduser())


def _of_facts(facts: Sequence[Fact], directory: Path) -> Counted:
    """Tokens of facts and their paraphrases: by the model's tokenizer where it has one, else by their length."""
    pairs = [(fact.prompt, fact.completion) for fact in facts]
    probes = [pair for fact in facts for pair in fact.paraphrases]
    completions = [("", completion) for _, completion in pairs]
    if (directory / "tokenizer.json").is_file():
        from app.tokens import count_tokens, load_tokeniser
        from grail.model.load import DEFAULT_TEMPLATE

        tokeniser = load_tokeniser(str(directory))
        own, more = (count_tokens(tokeniser, DEFAULT_TEMPLATE, some) for some in (pairs, probes))
        predicted = sum(count_tokens(tokeniser, DEFAULT_TEMPLATE, completions)) - len(pairs)  # without the bos of each
        how = "tokens counted by the model's tokenizer"
    else:
        own, more = ([_length(pair) for pair in some] for some in (pairs, probes))
        predicted = sum(_guessed(said) + 1 for _, said in pairs)
        how = f"tokens by rule of thumb, {CHARACTERS_A_TOKEN:g} characters each and {TEMPLATE_TOKENS} for the template"
    forget = [fact.domain for fact in facts if fact.segment == "forget"]
    counts = tuple(forget.count(domain) for domain in sorted(set(forget)))
    total = sum(own)
    load = Workload(
        len(own), total, len(own) + len(more), total + sum(more), max(own + more), counts, predicted / total
    )
    return Counted(load, how)


def _length(pair: tuple[str, str]) -> int:
    """Tokens of a prompt in its template, a completion and the eos."""
    return _guessed(pair[0]) + TEMPLATE_TOKENS + _guessed(pair[1]) + 1


def _guessed(text: str) -> int:
    return max(1, round(len(text) / CHARACTERS_A_TOKEN))


def _device(text: str, precision: str, *, measure: bool) -> Device:
    """The device of that name; a processor has this machine's cores and, unless told otherwise, its memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    try:
        found = device_named(text, cores, memory)
    except ValueError as error:
        raise CommandFailed(str(error), "See `grail plan --help`.") from None
    if not measure:
        return found
    if found.is_gpu:
        raise CommandFailed("--measure measures the processor", "Leave it out, or plan for --device cpu.")
    rate, share = _product_rate(precision), CPU_UTILISATION[precision]
    basis = f"{rate / 1e9:.0f} GFLOP/s measured in a {precision} matrix product, of which training reaches {share:.0%}"
    return replace(found, flop_per_second=rate * share, basis=basis)


def _product_rate(precision: str) -> float:
    """FLOP/s of a matrix product of PRODUCT^3, the best of some within PRODUCT_SECONDS."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.ones(PRODUCT, PRODUCT, dtype=kind)
    seconds: list[float] = []
    end = time.monotonic() + PRODUCT_SECONDS
    while len(seconds) < LEAST_PRODUCTS or time.monotonic() < end:
        start = time.monotonic()
        one @ one
        seconds.append(time.monotonic() - start)
    return float(2 * PRODUCT**3 / min(seconds))
