"""`random_labels`: descent on uniformly random tokens in the completion's place (KnowUnDo's baseline).

The tokens are drawn once a run, from the seed: a run that is resumed teaches the same ones.
"""

from __future__ import annotations

import torch

from grail.model.load import ordinary_tokens
from grail.objectives.base import Objective, Setting
from grail.objectives.relabelled import Relabelled

PRESETS = {"learning_rate": 5e-4, "forget_weight": 1.0, "retain_weight": 1.0}


def make(setting: Setting) -> Objective:
    """Draw each example's labels, in the order given."""
    vocabulary = ordinary_tokens(setting.model)
    generator = torch.Generator().manual_seed(setting.config.seed)
    return Relabelled(
        {
            example: vocabulary[torch.randint(len(vocabulary), (example.completion_length,), generator=generator)]
            for example in dict.fromkeys(setting.examples)
        }
    )
