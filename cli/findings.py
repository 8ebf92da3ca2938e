"""What a check of `grail doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

UNREAD = "not looked at: it needs settings that can not be read"
UNREAD_FILE = "not looked at: it needs a file of a secret that can not be read"
"""Which setting, or file, that is has a line of its own."""


class State(StrEnum):
    """How a check ended. A note is nothing that has to be mended."""

    OK = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    name: str
    state: State
    text: str
