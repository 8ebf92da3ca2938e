"""The other side of bench/speed.py: the same work as a user of transformers and PEFT writes it, one row at a time.

As in the published implementation: batch 1, labels inside the row, loss from the model itself, so
that logits are computed at every position; `width` pads each row to a fixed length, None does not pad. Nothing here is
of the library but the token ids and the corruptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grail.data.tokenise import TokenisedExample

FORGET_FACTOR, RETAIN_FACTOR = -0.4, 2.0


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A PeftModel as `from_pretrained` makes it, and its trainable tensors by the library's names."""

    model: Any
    parameters: dict[str, torch.nn.Parameter]
    pad_id: int


def plain_model(base: Path, adapter: Path, pad_id: int, precision: torch.dtype) -> PlainModel:
    """The base in `precision` with the adapter on it, transformers' and PEFT's defaults otherwise."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=precision, local_files_only=True)
    model = PeftModel.from_pretrained(loaded, adapter, is_trainable=True)
    model.eval()
    named = {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}
    return PlainModel(model, named, pad_id)


def row_of(plain: PlainModel, example: TokenisedExample, width: int | None) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels (1, T); labels are -100 in the prompt and in the padding."""
    length = len(example.input_ids)
    whole = max(width or length, length)
    ids = torch.full((1, whole), plain.pad_id)
    labels = torch.full((1, whole), -100)
    mask = torch.zeros((1, whole), dtype=torch.long)
    ids[0, :length] = torch.tensor(example.input_ids)
    mask[0, :length] = 1
    labels[0, example.prompt_length : length] = ids[0, example.prompt_length : length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_localisation(
    plain: PlainModel, draws: Sequence[Sequence[TokenisedExample]], width: int | None
) -> dict[str, torch.Tensor]:
    """Mean over examples of the squared mean gradient over each example's corruptions."""
    total = {name: torch.zeros_like(parameter) for name, parameter in plain.parameters.items()}
    for corruptions in draws:
        for corrupted in corruptions:
            plain.model(**row_of(plain, corrupted, width)).loss.backward()
        for name, parameter in plain.parameters.items():
            if parameter.grad is None:
                raise RuntimeError(f"{name} has no gradient: the plain side does not compute what it should")
            total[name] += (parameter.grad / len(corruptions)).square_()
            parameter.grad = None
    return {name: tensor / len(draws) for name, tensor in total.items()}


def plain_unlearning(
    plain: PlainModel,
    forget: Sequence[TokenisedExample],
    retain: Sequence[TokenisedExample],
    mask: Mapping[str, torch.Tensor],
    width: int | None,
) -> None:
    """One optimiser step: every row forward and backward alone, gradients accumulated, each side's masked once."""
    optimiser = torch.optim.AdamW(plain.parameters.values(), lr=1e-6, weight_decay=0.0)
    total = {name: torch.zeros_like(parameter) for name, parameter in plain.parameters.items()}
    count = len(forget) + len(retain)
    for rows, factor in ((forget, FORGET_FACTOR), (retain, RETAIN_FACTOR)):
        for row in rows:
            (plain.model(**row_of(plain, row, width)).loss * (factor / count)).backward()
        for name, parameter in plain.parameters.items():
            if parameter.grad is not None:
                total[name] += parameter.grad.masked_fill_(mask[name], 0.0)
            parameter.grad = None
    for name, parameter in plain.parameters.items():
        parameter.grad = total[name]
    torch.nn.utils.clip_grad_norm_(plain.parameters.values(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def plain_evaluation(plain: PlainModel, rows: Sequence[TokenisedExample], width: int | None) -> dict[str, float]:
    """The mean NLL of each row's completion by id; token accuracies are computed beside it, as the library does."""
    found = {}
    for row in rows:
        batch = row_of(plain, row, width)
        out = plain.model(**batch)
        wanted = batch["labels"][0, 1:]
        said = out.logits[0, :-1].argmax(dim=-1)
        accuracy = float((said == wanted)[wanted >= 0].float().mean())
        if not 0.0 <= accuracy <= 1.0:
            raise RuntimeError("the plain side has no token accuracy")
        found[row.id] = float(out.loss)
    return found
