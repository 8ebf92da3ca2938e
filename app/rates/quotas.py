"""How much each role may ask for in a window, by kind of call; what the settings say goes before."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Literal

from starlette.types import Scope

from app.config import RateKind, Settings
from app.tables.key import KeyRole

READING = frozenset({"GET", "HEAD", "OPTIONS"})
FAILURES: Literal["failures"] = "failures"
DEFAULTS: dict[KeyRole, dict[RateKind, int]] = {
    KeyRole.REQUESTER: {"read": 3000, "write": 600, "import": 30},
    KeyRole.OPERATOR: {"read": 6000, "write": 1200, "import": 60},
    KeyRole.OFFICER: {"read": 6000, "write": 1200, "import": 60},
    KeyRole.ADMIN: {"read": 12_000, "write": 3000, "import": 120},
}
"""Calls in a minute. More forget items than `write` lets in one by one come as a file."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` calls in any `seconds`."""

    name: str
    limit: int
    seconds: int

    @property
    def policy(self) -> bytes:
        """As a RateLimit-Policy field (draft-ietf-httpapi-ratelimit-headers-09)."""
        return f'"{self.name}";q={self.limit};w={self.seconds}'.encode()


def kind_of(method: str, path: str, imports: str) -> RateKind:
    """What a call costs its caller: a read, a write, or a file (POST to the address `imports`)."""
    if method in READING:
        return "read"
    return "import" if path == imports else "write"


def quota_of(settings: Settings, role: KeyRole, prefix: str, kind: RateKind) -> Quota:
    """What a key may: its own limit, else its role's, else the default."""
    own = settings.rate_limits_of_keys.get(prefix, {}).get(kind)
    limit = own or settings.rate_limits.get(role.value, {}).get(kind) or DEFAULTS[role][kind]
    return Quota(kind, limit, settings.rate_seconds)


def failures_of(settings: Settings) -> Quota:
    """What an address may do wrong."""
    return Quota(FAILURES, settings.rate_failures_per_address, settings.rate_seconds)


def place_of(scope: Scope) -> str:
    """Where a call comes from: an IPv4 address, or the /64 that one household or machine has all of in IPv6."""
    client = scope.get("client")
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address or "local")
