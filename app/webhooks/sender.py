"""Sends what is due: many at a time, few to each webhook, so that a slow or dead receiver holds up nobody else.

No redirects, proxies or cookies; of an answer its status alone is read; the connection is made to an address that was
judged (app.webhooks.addresses), under the name that the certificate has to have.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import ServiceError
from app.webhooks import fan
from app.webhooks.addresses import AddressRefused, Target, judged, resolve, target_of
from app.webhooks.fan import Outcome
from app.webhooks.messages import Message
from app.webhooks.schedule import seconds_asked

log = structlog.get_logger(__name__)

Found = TypeVar("Found")
AT_ONCE, PER_WEBHOOK = 100, 4
"""Messages under way in one process, and to one webhook."""
RUN_SECONDS = 60.0
"""Then what is under way is finished, and the next ring of beat goes on."""
THREADS = 32
"""For names to be resolved, some of which take their time, and for short transactions."""


class Sender:
    """One a process; a second run beside the first returns at once."""

    def __init__(
        self, db: Database, settings: Settings, now: Callable[[Session], datetime] = clock
    ) -> None:
        self.db, self.settings, self.now = db, settings, now
        self.random = random.SystemRandom()
        self._running = threading.Lock()

    @cached_property
    def trust(self) -> ssl.SSLContext:
        """Authorities whose certificates are believed: certifi's, or those of SSL_CERT_FILE."""
        return httpx.create_ssl_context()

    def run(self) -> None:
        """Make deliveries of what happened and send all that are due. Raises Unavailable."""
        if self._running.acquire(blocking=False):
            try:
                asyncio.run(self._run())
            finally:
                self._running.release()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        transport = httpx.AsyncHTTPTransport(
            verify=self.trust, limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
        )
        ends, fans = loop.time() + RUN_SECONDS, loop.time()
        sending: dict[asyncio.Task[None], uuid.UUID] = {}
        async with transport:
            while True:
                now = loop.time()
                if fans <= now < ends:
                    more = await self._with_session(lambda session: fan.fan_out(session, self.now(session)))
                    fans = now if more else now + self.settings.deliver_seconds
                if now < ends and len(sending) < AT_ONCE:
                    for message in await self._claimed(set(sending.values()), AT_ONCE - len(sending)):
                        sending[asyncio.create_task(self._deliver(transport, message))] = message.webhook_id
                if not sending:
                    return
                done, _ = await asyncio.wait(
                    sending, timeout=self.settings.deliver_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del sending[task]

    async def _claimed(self, busy: set[uuid.UUID], room: int) -> list[Message]:
        return await self._with_session(
            lambda session: fan.claim(
                session, self.now(session), self.settings, busy=busy, per_webhook=PER_WEBHOOK, limit=room
            )
        )

    async def _deliver(self, transport: httpx.AsyncHTTPTransport, message: Message) -> None:
        outcome = await send(transport, message, self.settings)
        chance = self.random.random()
        try:
            await self._with_session(
                lambda session: fan.settle(session, message, outcome, self.now(session), self.settings, chance)
            )
        except (ServiceError, SQLAlchemyError) as error:  # due again when its lease has run out
            log.warning("delivery_not_noted", delivery_id=str(message.delivery_id), kind=type(error).__name__)

    async def _with_session(self, what: Callable[[Session], Found]) -> Found:
        def run() -> Found:
            with transaction(self.db) as session:
                return what(session)

        return await asyncio.to_thread(run)


async def send(transport: httpx.AsyncHTTPTransport, message: Message, settings: Settings) -> Outcome:
    """One attempt, whatever comes of it, within the time that is given."""
    try:
        async with asyncio.timeout(settings.webhook_timeout_seconds):
            target = target_of(message.url)
            addresses = judged(target, await asyncio.to_thread(resolve, target), settings.webhook_private_networks)
            return await _post(transport, target, addresses, message, settings.webhook_timeout_seconds)
    except AddressRefused as error:
        return Outcome(error=error.type)
    except (TimeoutError, httpx.TimeoutException):
        return Outcome(error="timeout")
    except httpx.ConnectError as error:
        return Outcome(error="tls" if _is_tls(error) else "connection")
    except httpx.TransportError:
        return Outcome(error="protocol")


async def _post(
    transport: httpx.AsyncHTTPTransport, target: Target, addresses: list[str], message: Message, seconds: float
) -> Outcome:
    """To the first address that takes a connection."""
    for number, address in enumerate(addresses, 1):
        try:
            response = await transport.handle_async_request(_request(target, address, message, seconds))
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if number == len(addresses):
                raise
            continue
        await response.aclose()
        status = response.status_code
        error = None if 200 <= status < 300 else "status"
        return Outcome(status, error, seconds_asked(response.headers.get("retry-after")))
    raise httpx.ConnectError("no address")


def _request(target: Target, address: str, message: Message, seconds: float) -> httpx.Request:
    """A request to the address under the name: for the receiver in `Host`, for its certificate in TLS."""
    extensions: dict[str, Any] = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds)}
    if target.secure and not _is_literal(target.host):
        extensions["sni_hostname"] = target.host
    headers = {"Host": target.url.netloc.decode("ascii"), **message.headers}
    url = target.url.copy_with(host=address)
    return httpx.Request("POST", url, headers=headers, content=message.body, extensions=extensions)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
