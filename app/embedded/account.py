"""Whom the servers run as. Postgres refuses root, and a broker needs none of its rights."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from app.embedded.errors import ServerFailed


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group of a server: -1 keeps the present ones."""

    uid: int = -1
    gid: int = -1
    name: str = "the present user"

    @property
    def drops(self) -> bool:
        """True when the server runs as another user than this process, which is then root."""
        return self.uid >= 0


def account() -> Account:
    """The present user, or for root `postgres`, else `nobody`. Raises ServerFailed when root has neither."""
    if os.geteuid() != 0:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(found.pw_uid, found.pw_gid, name)
    raise ServerFailed(
        "running as root, and there is no user postgres or nobody to run the servers as: start as an ordinary user"
    )
