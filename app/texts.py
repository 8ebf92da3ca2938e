"""Text as it may come in: bounded, not blank, without NUL (Postgres refuses it) or lone surrogates (UTF-8 does)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints


def clean(value: str) -> str:
    """`value`, or ValueError for characters that can not be stored, and for white space alone: no model can be asked
    or made to forget nothing."""
    if "\x00" in value:
        raise ValueError("the text holds a NUL character: remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds half a surrogate pair: send well-formed Unicode") from None
    if not value.strip():
        raise ValueError("the text is blank")
    return value


def text_type(max_chars: int, min_chars: int = 1) -> Any:
    """A string type of `min_chars`..`max_chars` characters, visible in the OpenAPI document."""
    return Annotated[str, StringConstraints(min_length=min_chars, max_length=max_chars), AfterValidator(clean)]
