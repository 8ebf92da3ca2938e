"""Text as it may come in: bounded, with something to be seen, without NUL (Postgres refuses it) or lone surrogates
(UTF-8 does). And when two texts count as the same."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

IGNORABLE = {
    code: None
    for first, last in (
        (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
        (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
}  # fmt: skip
"""Default_Ignorable_Code_Point of Unicode 17, for `str.translate`: what nobody sees and NFKC_Casefold takes away."""


def normalise(text: str) -> str:
    """Text without differences that nobody sees or means: NFKC_Casefold (Unicode, 3.13: compatibility forms, case,
    ignorable code points), and runs of white space."""
    if text.isascii():  # what follows would give the same, in ten times the time
        return " ".join(text.lower().split())
    once = unicodedata.normalize("NFKC", text).casefold().translate(IGNORABLE)
    return " ".join(unicodedata.normalize("NFKC", once).split())


def clean(value: str) -> str:
    """`value`, or ValueError for characters that can not be stored, and where there is nothing to be seen: no model can
    be asked or made to forget nothing."""
    if "\x00" in value:
        raise ValueError("the text holds a NUL character: remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds half a surrogate pair: send well-formed Unicode") from None
    if not (value if value.isascii() else value.translate(IGNORABLE)).strip():
        raise ValueError("the text is blank")
    return value


def text_type(max_chars: int, min_chars: int = 1) -> Any:
    """A string type of `min_chars`..`max_chars` characters, visible in the OpenAPI document."""
    return Annotated[str, StringConstraints(min_length=min_chars, max_length=max_chars), AfterValidator(clean)]
