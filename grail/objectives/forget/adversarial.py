"""`adversarial`: descent on the original's most likely token that is not the ground truth (KnowUnDo's baseline)."""

from __future__ import annotations

import torch

from grail.data.batches import by_length, pad
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_logits
from grail.objectives.base import Objective, Setting
from grail.objectives.relabelled import Relabelled

PRESETS = {"learning_rate": 5e-4, "forget_weight": 1.0, "retain_weight": 1.0}


@torch.no_grad()
def make(setting: Setting) -> Objective:
    """Ask the original, before the first step, for its best wrong token at each completion position."""
    model = setting.model
    labels: dict[TokenisedExample, torch.Tensor] = {}
    for chunk in by_length(list(dict.fromkeys(setting.examples)), setting.config.micro_batch):
        batch = pad(chunk, model.pad_id, model.device)
        logits = completion_logits(model, batch)  # (M, V)
        wrong = logits.scatter(-1, batch.labels[:, None], float("-inf")).argmax(dim=-1)  # (M,)
        labels.update(zip(chunk, torch.split(wrong, [e.completion_length for e in chunk]), strict=True))
    return Relabelled(labels)
