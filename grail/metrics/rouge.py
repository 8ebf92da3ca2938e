"""ROUGE-L, and whether an answer gives a fact away.

Looking for a fact errs on the side of finding it: an answer that holds it is never certified as forgotten.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from rouge_score.rouge_scorer import RougeScorer

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese and Korean: words there do not stand between spaces."""


@lru_cache(maxsize=1)
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(reference: str, output: str) -> float:
    """F-measure 0..100 of the longest common subsequence of words (Lin 2004, as `rouge_score` computes it)."""
    return 100.0 * float(_scorer().score(reference, output)["rougeL"].fmeasure)


def normalise(text: str) -> str:
    """Words only, one space between them: Unicode form (NFKC), case and punctuation make no difference."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+", folded))


def _stands_in(words: str, said: str) -> bool:
    return words in said if UNSPACED.search(words) else f" {words} " in f" {said} "


def holds_fact(answer: str, facts: Sequence[str], completion: str) -> bool:
    """True when ANY of `facts` stands in the answer as whole words; the whole completion when no fact is named.

    Any, not all: one of several telling words in an answer is enough to count as not forgotten. In scripts that do not
    put spaces between words the fact may stand anywhere.
    """
    looked_for = [words for fact in facts if (words := normalise(fact))] or [normalise(completion)]
    if looked_for == [""]:  # nothing but signs: they are compared as they are
        return bool(completion.strip()) and completion.strip() in answer
    said = normalise(answer)
    return any(_stands_in(words, said) for words in looked_for)
