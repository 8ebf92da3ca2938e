"""Rules of webhooks that need neither database nor network."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.webhooks.addresses import AddressRefused, is_public, judged, plain, target_of
from app.webhooks.schedule import RETRY_AFTER_MOST_SECONDS, seconds_asked, wait_seconds
from app.webhooks.signing import as_shown, sign, signed_headers

SCHEDULE = [5.0, 300.0, 1800.0]


def test_the_signature_is_that_of_the_libraries() -> None:
    """The vector that the libraries of Standard Webhooks are tested with."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected
    assert as_shown(secret) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signed_headers([secret, b"other"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"].split(" ")[0] == expected
    assert len(headers["webhook-signature"].split(" ")) == 2


@given(st.integers(1, 3), st.floats(0, 1), st.none() | st.floats(0, 1e6))
def test_a_wait_is_near_the_schedules_and_not_shorter_than_asked(
    attempts: int, chance: float, asked: float | None
) -> None:
    wait = wait_seconds(SCHEDULE, attempts, chance, asked)
    assert wait is not None
    assert wait >= 0.9 * SCHEDULE[attempts - 1]
    assert wait >= min(asked or 0, RETRY_AFTER_MOST_SECONDS)
    assert wait <= max(1.1 * SCHEDULE[attempts - 1], min(asked or 0, RETRY_AFTER_MOST_SECONDS))


def test_after_the_last_try_there_is_none() -> None:
    assert wait_seconds(SCHEDULE, 3, 0.5, None) == 1800
    assert wait_seconds(SCHEDULE, 4, 0.5, None) is None
    assert wait_seconds([], 1, 0.5, 100) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("12", 12), ("-1", None), ("1e9", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None),
     ("9" * 20, None), ("१२", None)],
)  # fmt: skip
def test_what_a_receiver_asks_for(header: str | None, seconds: float | None) -> None:
    assert seconds_asked(header) == seconds


REFUSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "100::1", "3fff::1",
]  # fmt: skip
PUBLIC = ["93.184.215.14", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "::ffff:93.184.215.14"]


@pytest.mark.parametrize("address", REFUSED)
def test_private_local_and_reserved_addresses_are_refused_however_they_are_written(address: str) -> None:
    with pytest.raises(AddressRefused, match="private"):
        judged(target_of("https://hooks.example.com/"), [address], [])
    with pytest.raises(AddressRefused):
        judged(target_of("https://hooks.example.com/"), ["93.184.215.14", address], [])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_called(address: str) -> None:
    assert judged(target_of("https://hooks.example.com/"), [address], []) == [address]


@given(st.ip_addresses(v=4))
def test_an_address_inside_of_another_form_is_judged_as_itself(inner: Any) -> None:
    mapped = ipaddress.ip_address(f"::ffff:{inner}")
    assert plain(mapped) == inner
    assert not is_public(ipaddress.ip_address(f"64:ff9b::{inner}"))
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (int(inner) << 80)))


def test_an_operator_allows_ranges_and_plain_http_for_loopback_alone() -> None:
    allowed = [ipaddress.ip_network(network) for network in ("10.1.0.0/16", "127.0.0.0/8", "::1/128")]
    secure, bare = target_of("https://hooks.internal/"), target_of("http://hooks.internal:8080/")
    assert judged(secure, ["10.1.2.3", "::ffff:10.1.2.4"], allowed)
    assert judged(bare, ["127.0.0.1"], allowed)
    for target, address in ((secure, "10.2.0.1"), (bare, "10.1.2.3"), (bare, "93.184.215.14"), (bare, "::2")):
        with pytest.raises(AddressRefused):
            judged(target, [address], allowed)
    with pytest.raises(AddressRefused, match="not https"):
        judged(bare, ["127.0.0.1"], [])


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "ftp://hooks.example.com/", "file:///etc/passwd", "gopher://x/", "https://",
        "https:///path", "https://user@hooks.example.com/", "https://user:word@hooks.example.com/",
        "https://:word@hooks.example.com/", "https://hooks.example.com/#part", "https://hooks.example.com:22/",
        "https://hooks.example.com:80/", "http://hooks.example.com:443/", "https://hooks.example.com:99999/",
        "https://[::1/", "https://hooks.example.com\\@127.0.0.1/", "https://a b/", "javascript:alert(1)",
        "https://hooks.example.com:0x50/",
    ],
)  # fmt: skip
def test_urls_that_no_webhook_needs_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        target_of(url)


def test_what_is_judged_is_what_is_called() -> None:
    target = target_of("https://Hooks.Example.com:8443/a/b?c=d")
    assert (target.host, target.port, target.secure) == ("hooks.example.com", 8443, True)
    assert target_of("https://bücher.example/").host == "xn--bcher-kva.example"
    assert target_of("https://[2606:4700:4700::1111]/").host == "2606:4700:4700::1111"
