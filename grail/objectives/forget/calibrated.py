"""`calibrated`: KL(reference || current). The target is the model that never knew, which with LoRA is at hand: the same
network with the adapter off, or a registered adapter taught the retain data alone.

With the option `over` = `label` (the default) the two are compared over two outcomes: the label token, or any other.
Each token of what is to be forgotten becomes about as likely as it would have been, and nothing says which other takes
its place. Tokens that have become less likely than that are pulled up with the weight `upward` alone. With `vocabulary`
all tokens are outcomes: the current model is to say what the reference would say, which asks for more change than
forgetting does and costs retention (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_logits, row_mean
from grail.model.load import LoadedModel, as_reference
from grail.objectives.base import Objective, RowLosses, Setting, label_logprobs
from grail.objectives.divergence import divergence

PRESETS = {"learning_rate": 1e-3, "forget_weight": 1.0, "retain_weight": 1.0}
OPTIONS = {"over": "label", "upward": 0.1}
LIMITS = {"over": ("label", "vocabulary"), "upward": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class LabelDivergence:
    """Mean over completion tokens of w (q log(q / p) + (1 - q) log((1 - q) / (1 - p))), with p the label's probability
    and q its probability under the reference; w is 1 where p > q, else `upward`. `reference` maps an example to log q
    (T_c,).

    Its slope along the label's log-odds is w (p - q): full where a token is known by heart, where that of the
    likelihood vanishes, and 0 where the reference stands.
    """

    reference: Mapping[TokenisedExample, torch.Tensor] = field(repr=False)
    upward: float

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        logits, label = completion_logits(model, batch), batch.labels[:, None]  # (M, V), (M, 1)
        others = logits.scatter(-1, label, float("-inf")).logsumexp(dim=-1)
        odds = logits.gather(-1, label).squeeze(-1) - others  # (M,)
        wanted = torch.cat([self.reference[example] for example in batch.examples]).exp().clamp(max=1.0)  # (M,)
        least = -torch.special.xlogy(wanted, wanted) - torch.special.xlogy(1 - wanted, 1 - wanted)
        loss = F.binary_cross_entropy_with_logits(odds, wanted, reduction="none") - least
        loss = torch.where(torch.sigmoid(odds.detach()) > wanted, loss, self.upward * loss)
        return RowLosses(row_mean(loss, batch), row_mean(F.softplus(-odds.detach()), batch))


def make(setting: Setting) -> Objective:
    """Ask the reference about every example once."""
    if setting.config.options["over"] == "vocabulary":
        return divergence(setting, as_reference)
    with as_reference(setting.model):
        return LabelDivergence(label_logprobs(setting), setting.config.number("upward"))
