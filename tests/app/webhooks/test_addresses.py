"""A webhook leads nowhere that it should not: judged when it is made and each time that something is sent."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI

from app.opendsr.forms import domain_of
from tests.app.service import Floor
from tests.app.webhooks.receiver import Post, Receiver
from tests.fixtures.served import question

NAME = "hooks.grail.test"


class Names:
    """What names resolve to, one answer a question."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(str(host))
        try:
            addresses = [str(ipaddress.ip_address(str(host)))]
        except ValueError:
            found = self.answers.get(str(host), [])
            if not found:
                raise socket.gaierror from None
            addresses = [found.pop(0) if len(found) > 1 else found[0]]
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (kinds[ipaddress.ip_address(a).version], socket.SOCK_STREAM, 6, "", (a, int(port))) for a in addresses
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    return made


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data/", "https://[::1]/", "https://[fd00::1]/",
        "https://[::ffff:10.0.0.1]/", "https://internal.grail.test/", "https://nowhere.grail.test/",
        "http://public.grail.test/", "https://user:hunter2@public.grail.test/", "https://public.grail.test:22/",
        "http://127.0.0.1:25/",
    ],
)  # fmt: skip
def test_what_may_not_be_called_is_refused_when_the_webhook_is_made(floor: Floor, names: Names, url: str) -> None:
    names.answers = {"internal.grail.test": ["192.168.7.7"], "public.grail.test": ["93.184.215.14"]}
    answer = floor.caller.send("admin", "POST", "/v1/webhooks", json={"url": url})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:grail:problem:address-refused"
    assert "grail.test" not in answer.text and "hunter2" not in answer.text
    assert floor.caller.call("admin", "GET", "/v1/webhooks")["items"] == []


def test_no_connection_is_held_while_a_name_is_looked_up(
    floor: Floor, names: Names, api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few slow names would hold all connections of a process, and everybody would wait for them."""
    names.answers, held = {"public.grail.test": ["93.184.215.14"]}, []

    def looked_up(*arguments: Any, **named: Any) -> list[Any]:
        held.append(api.state.db.engine.pool.checkedout())
        return names.getaddrinfo(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    url = "https://public.grail.test/"
    floor.caller.call("requester", "POST", "/v1/webhooks", 201, json={"url": url})
    ours = {"served_model": "people", "forget": [question(1)], "retain": [question(2)]}
    asked = {
        "regulation": "gdpr", "subject_request_id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "api_version": "2.0",
        "subject_request_type": "erasure", "submitted_time": "2026-11-26T09:00:00Z", "status_callback_urls": [url],
        "subject_identities": [{"identity_type": "email", "identity_value": "a@b.c", "identity_format": "raw"}],
        "extensions": {domain_of(floor.settings.public_url): ours},
    }  # fmt: skip
    floor.caller.call("requester", "POST", "/opendsr/requests", 201, json=asked)
    assert held == [0, 0]


def test_a_name_that_changes_its_meaning_is_not_followed_inside(
    floor: Floor, post: Post, names: Names, receiver: Receiver
) -> None:
    """Public when it was made and private when something is sent: DNS rebinding."""
    names.answers = {NAME: ["93.184.215.14", "10.0.0.1"]}
    hook = post.hook(f"https://{NAME}:{receiver.port}/hook")
    floor.ask(1)
    post.run()
    assert receiver.got == []
    (delivery,) = post.deliveries(hook)
    assert (delivery["state"], delivery["last_error"], delivery["last_status"]) == ("pending", "address-refused", None)


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Iterator[Receiver]:
    """The receiver over TLS with a certificate for NAME, whose authority this service believes."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "receiver.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    yield receiver


def test_the_connection_goes_to_the_judged_address_under_the_name_of_the_certificate(
    floor: Floor, post: Post, names: Names, certified: Receiver
) -> None:
    names.answers = {NAME: ["127.0.0.1"]}
    hook = post.hook(f"https://{NAME}:{certified.port}/hook?a=b")
    floor.ask(1)
    names.asked.clear()
    post.run()
    (got,) = certified.got
    assert (got.path, got.headers["host"]) == ("/hook?a=b", f"{NAME}:{certified.port}")
    assert got.signed_by(hook["secret"])
    assert names.asked.count(NAME) == 1, "resolved once: what was judged is what was called"


def test_a_certificate_of_another_name_is_not_believed(
    floor: Floor, post: Post, names: Names, certified: Receiver
) -> None:
    names.answers = {"other.grail.test": ["127.0.0.1"]}
    hook = post.hook(f"https://other.grail.test:{certified.port}/hook")
    floor.ask(1)
    post.run()
    assert certified.got == []
    assert post.deliveries(hook)[0]["last_error"] == "tls"


def test_an_answer_that_never_comes_is_given_up_and_its_body_is_not_read(
    floor: Floor, post: Post, receiver: Receiver
) -> None:
    """The time is one for all of it, so that an answer in drops holds nobody."""
    post.sender.settings = post.settings.model_copy(update={"webhook_timeout_seconds": 0.3})
    given_up = threading.Event()
    receiver.before_answer = lambda _: given_up.wait(60) and None
    hook = post.hook(receiver.url)
    floor.ask(1)
    post.run()
    given_up.set()
    assert post.deliveries(hook)[0]["last_error"] == "timeout"
