"""Who may do what with a request, beyond what a role's endpoints let in."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from app.auth import Principal, Role
from app.tables import Request


def owns_or_judges(who: Principal, request: Request | Row[Any]) -> bool:
    """The owner, an officer or an admin: they may read what people wrote about it, and withdraw it."""
    return request.created_by == who.key_id or who.is_any_of(Role.OFFICER)
