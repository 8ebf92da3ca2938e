"""The score of one example."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExampleScore:
    """`accuracy` 0..1: share of label positions (completion and final eos) whose teacher-forced argmax is the label;
    `nll`: mean completion NLL in nats, always finite; `rouge_l_*`: F-measure 0..100 of the teacher-forced argmax and of
    the free greedy answer; `holds_fact`: the free answer gives the fact away. Free measures are None where nothing was
    generated. `answer` is for people beside the screen: it is never stored and never part of a report."""

    accuracy: float
    nll: float
    rouge_l_forced: float
    rouge_l_free: float | None = None
    holds_fact: bool | None = None
    answer: str | None = field(default=None, repr=False)
