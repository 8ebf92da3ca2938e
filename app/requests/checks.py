"""What holds of the items of any request before they are stored."""

from __future__ import annotations

from collections.abc import Sequence

from app.requests import entries as rules
from app.requests.entries import Entry
from app.requests.errors import Contradiction, DuplicateItem, FactNotInText, NothingAsked, TextTooLong
from app.requests.intake_repository import Target
from app.tables import ServedModel
from app.tokens import count_tokens, load_tokeniser, surely_fit


def check(found: Sequence[Entry]) -> None:
    """Rules that need neither database nor tokenizer. Raises NothingAsked, FactNotInText, DuplicateItem and
    Contradiction."""
    if not found:
        raise NothingAsked
    faults = [fault.as_dict() for fault in rules.missing_facts(found)]
    if faults:
        raise FactNotInText(faults)
    faults = [fault.as_dict() for fault in rules.duplicates(found)]
    if faults:
        raise DuplicateItem(faults)
    pairs = list(rules.contradictions(found))
    if pairs:
        raise Contradiction(
            [fault.as_dict() for fault, _ in pairs], pairs=[[fault.field, other] for fault, other in pairs[:20]]
        )


def check_lengths(found: Sequence[Entry], model: ServedModel | Target) -> None:
    """Every text fits the model's context, prompt template and end token included. Raises TextTooLong."""
    pairs = [(entry.prompt, entry.completion) for entry in found]
    tokeniser = load_tokeniser(model.base_model_path)
    if surely_fit(tokeniser, model.prompt_template, pairs, model.context_tokens):
        return
    counts = count_tokens(tokeniser, model.prompt_template, pairs)
    faults = [fault.as_dict() for fault in rules.too_long(found, counts, model.context_tokens)]
    if faults:
        raise TextTooLong(faults, context_tokens=model.context_tokens)
