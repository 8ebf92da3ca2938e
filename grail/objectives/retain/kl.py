"""`kl`: forward KL(original || current): the model is to say about what stays just what it said before."""

from __future__ import annotations

from contextlib import AbstractContextManager

from grail.model.adapter import read_state, with_adapter
from grail.model.load import LoadedModel
from grail.objectives.base import Objective, Setting
from grail.objectives.divergence import divergence


def make(setting: Setting) -> Objective:
    """Pass every example through the original once; its tensors are kept for those that are not remembered."""
    original = read_state(setting.model.model)

    def as_original(model: LoadedModel) -> AbstractContextManager[None]:
        return with_adapter(model.model, original)

    return divergence(setting, as_original)
