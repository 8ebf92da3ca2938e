"""Other wordings of a question, made by leaving words out: what is forgotten should not come back when it is asked
otherwise, and what stays should not depend on the very words of one question.

Nothing outside is needed for it: no list of synonyms, no second model. Words are what stands between spaces; a prompt
without spaces, or a bare passage, has no other wording here.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from grail.types import Example


def leave_out(prompt: str, share: float, generator: torch.Generator) -> str:
    """`prompt` with each word left out with probability `share`; never all of them."""
    words = prompt.split(" ")
    kept = [
        word for word, drawn in zip(words, torch.rand(len(words), generator=generator), strict=True) if drawn >= share
    ]
    return " ".join(kept) if kept else prompt


def wordings(example: Example, count: int, share: float, generator: torch.Generator) -> list[Example]:
    """The example and up to `count - 1` other wordings of its prompt, each with an id of its own, none twice."""
    prompts = dict.fromkeys([example.prompt, *(leave_out(example.prompt, share, generator) for _ in range(count - 1))])
    return [
        example if place == 0 else replace(example, id=f"{example.id}~{place}", prompt=prompt)
        for place, prompt in enumerate(prompts)
    ]
