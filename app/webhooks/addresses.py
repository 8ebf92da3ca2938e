"""Which addresses may be called: public ones over TLS, and what the operator allows beside them.

A name is judged by what it resolves to, at creation and at each sending; the connection is then made to an address that
was judged, so that a name can not change its meaning in between (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from app.errors import Unprocessable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is given out of IPv6 (RFC 4291): forms that carry an IPv4 address inside, as NAT64, lie outside of it."""
SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",  # the last: public by its number, and yet Azure's own service
        "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
)  # fmt: skip
"""IANA's special-purpose registries, spelt out: what the standard library knows of them differs by its version. Teredo
(in 2001::/23) and 6to4 (2002::/16) lead to an IPv4 address inside of theirs, so they are never public here."""
LEAST_FREE_PORT, MOST_PORT = 1024, 65535
HOST = re.compile(r"[a-z0-9._:-]{1,255}")
RESOLVE_SECONDS = 5.0


class AddressRefused(Unprocessable):
    """A URL that is not called."""

    type = "address-refused"
    title = "The address may not be called"
    mend = (
        "Give an https address that the public can reach. An operator allows others with "
        "GRAIL_WEBHOOK_PRIVATE_NETWORKS."
    )


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send: the URL as it was given and the parts that a connection needs."""

    url: httpx.URL
    host: str
    port: int

    @property
    def secure(self) -> bool:
        """Whether it is reached over TLS."""
        return self.url.scheme == "https"


def target_of(url: str) -> Target:
    """The parts of a URL, by the parser that sends. Raises AddressRefused for what no webhook needs."""
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise AddressRefused("the url can not be read") from None
    if parsed.scheme not in {"https", "http"} or not HOST.fullmatch(host):
        raise AddressRefused("the url has no https address")
    if parsed.userinfo:
        raise AddressRefused("the url holds a name or password: deliveries are signed instead")
    if parsed.fragment:
        raise AddressRefused("the url has a fragment, which is never sent")
    usual = 443 if parsed.scheme == "https" else 80
    port = parsed.port or usual
    if port != usual and not LEAST_FREE_PORT <= port <= MOST_PORT:
        raise AddressRefused(f"the url names a port other than {usual} and {LEAST_FREE_PORT} to {MOST_PORT}")
    return Target(parsed, host, port)


def resolve(target: Target) -> list[str]:
    """Addresses of the host. Raises AddressRefused when there are none within `RESOLVE_SECONDS`."""
    found: list[str] = []

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend(dict.fromkeys(str(entry[4][0]) for entry in entries))

    thread = threading.Thread(target=look_up, daemon=True, name="resolve")  # the resolver's own patience is long
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if not found:
        raise AddressRefused("the host name leads nowhere")
    return list(found)


def judged(target: Target, addresses: Sequence[str], allowed: Sequence[Network]) -> list[str]:
    """The addresses, if each of them may be called. Raises AddressRefused.

    Plain http is for loopback alone, where the operator allows it.
    """
    for text in addresses:
        address = plain(ipaddress.ip_address(text))
        exempt = any(address in network for network in allowed if network.version == address.version)
        if not target.secure and not (exempt and address.is_loopback):
            raise AddressRefused("the url is not https")
        if not exempt and not is_public(address):
            raise AddressRefused("the host lies in a private, local or reserved range")
    return list(addresses)


def plain(address: Address) -> Address:
    """An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) as itself; without a zone."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def is_public(address: Address) -> bool:
    """Whether an address is one that anybody may reach, and belongs to no machine of the service's own network."""
    if address.version == 6 and address not in UNICAST:
        return False
    special = any(address in network for network in SPECIAL if network.version == address.version)
    return address.is_global and not special
