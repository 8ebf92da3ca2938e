"""What a command says when it can not do what was asked: what is wrong, and the way out."""

from __future__ import annotations


class CommandFailed(Exception):
    """Printed by the border in cli.main as two lines; the exit code is 1."""

    def __init__(self, detail: str, mend: str = "") -> None:
        self.detail, self.mend = detail, mend
        super().__init__(detail)
