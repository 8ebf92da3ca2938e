"""A receiver of webhooks on this machine, and the service's side of sending to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import select

from app.config import Settings
from app.db import Database
from app.tables import Delivery, Webhook
from app.webhooks.sender import Sender
from tests.app.service import Caller, until_settled

LOOPBACK = '["127.0.0.0/8"]'


@dataclass(frozen=True)
class Got:
    """One delivery as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def signed_by(self, secret: str) -> bool:
        """As a receiver checks it, written from the specification's words and not with our code."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = b".".join([self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body])
        expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


class Receiver:
    """Answers with `status`; keeps what came. A context manager."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.status = 204
        self.extra: dict[str, str] = {}
        self.before_answer: Callable[[Got], None] = lambda _: None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                came = Got(self.path, headers, self.rfile.read(length))
                receiver.got.append(came)
                receiver.before_answer(came)
                self.send_response(receiver.status)
                for name, value in receiver.extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> Receiver:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Post:
    """The sender with a clock that a test moves."""

    def __init__(self, caller: Caller, settings: Settings) -> None:
        self.caller, self.db, self.settings = caller, caller.db, settings
        self.now = datetime.now(UTC)
        self.sender = Sender(caller.db, settings, now=lambda _: self.now)

    def hook(self, url: str, role: str = "requester", **more: Any) -> Any:
        return self.caller.call(role, "POST", "/v1/webhooks", 201, json={"url": url, **more})

    def run(self, later: float = 0.0) -> None:
        """Send what is due once `later` seconds have passed."""
        self.now = max(self.now + timedelta(seconds=later), datetime.now(UTC))
        until_settled(self.db)
        self.sender.run()

    def deliveries(self, hook: Any, role: str = "requester", **query: Any) -> list[Any]:
        path = f"/v1/webhooks/{hook['id']}/deliveries"
        return list(self.caller.call(role, "GET", path, params=query)["items"])


def row(db: Database, table: type[Webhook] | type[Delivery], id_: str) -> Any:
    with db.session_factory() as session:
        return session.scalars(select(table).where(table.id == id_)).one()
