"""Who is let in: the key is looked at, and the call counted, before anything of its body is read.

A caller without a valid key gets its 401 for the price of one look at the headers, and, for a key of the right form, of
one statement; after some of them a 429. Whether the key may do what it asks is the endpoints' business, as before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import ADMITTED, NO_VALID_KEY, KnownKeys, Principal, bearer_of, has_form, hash_key, prefix_of
from app.config import Settings
from app.errors import ServiceError, Unauthorised, answer
from app.rates.counting import Counting
from app.rates.errors import RateLimited, TooManyFailures
from app.rates.quotas import Quota, failures_of, kind_of, place_of, quota_of
from app.rates.window import Taken
from app.telemetry.context import note

GUARDED = ("/v1/", "/opendsr/")
"""Below these nothing is answered without a key, not even that there is nothing."""
OWN_DOORS = ("/docs", "/openapi.json", "/metrics")
"""They look at keys, or at other things, in their own way: their refusals are counted here."""
Refused = Callable[[str, str], None]
"""(kind of call, role, or `none` without a key)."""
Form = Callable[[ServiceError], ServiceError]


class Admission:
    """`forms` says in which form addresses below a prefix tell of errors."""

    def __init__(
        self, app: ASGIApp, settings: Settings, counting: Counting, *, imports: str,
        refused: Refused, forms: Mapping[str, Form],
    ) -> None:  # fmt: skip
        self.app, self.settings, self.counting = app, settings, counting
        self.imports, self.refused, self.forms = imports, refused, dict(forms)
        self.failures = failures_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if path.startswith(GUARDED):
            await self._guarded(scope, receive, send)
        elif path.startswith(OWN_DOORS):
            await self._own_door(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields: list[tuple[bytes, bytes]] = []
        try:
            plaintext = bearer_of(scope)
            who = await self._holder(plaintext, place_of(scope), scope["app"].state)
            kind = kind_of(scope["method"], scope["path"], self.imports)
            quota = quota_of(self.settings, who.role, prefix_of(plaintext), kind)
            found = await self.counting.take(str(who.key_id), quota)
            fields = told(quota, found)
            if found is not None and not found.allowed:
                self.refused(quota.name, who.role.value)
                detail = f"more than {quota.limit} calls in {quota.seconds} s ({kind})"
                raise RateLimited(
                    detail, retry_after=wait(found), limit=quota.limit, window_seconds=quota.seconds, kind=kind
                )
        except ServiceError as error:
            await self._refuse(error, fields, scope, receive, send)
            return
        scope[ADMITTED] = who

        async def with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *fields]
            await send(message)

        await self.app(scope, receive, with_fields)

    async def _holder(self, plaintext: str, place: str, state: State) -> Principal:
        """Raises Unauthorised, TooManyFailures, Unavailable."""
        known: KnownKeys = state.known_keys
        digest, now = hash_key(plaintext), time.monotonic()
        who = known.get(digest, now)
        if who is None:
            if not has_form(plaintext):
                raise await self._failed(place)
            if not known.seen(digest):  # whoever held a key lately is not locked out by a neighbour's guesses
                self._check(await self.counting.take(place, self.failures, counts=False))
            try:
                who = await known.look_up(state.db, plaintext, digest, now)
            except Unauthorised:
                raise await self._failed(place) from None
        note(key_id=who.shown)
        return who

    async def _failed(self, place: str) -> ServiceError:
        """What to answer to a caller without a valid key, which is counted."""
        try:
            self._check(await self.counting.take(place, self.failures))
        except TooManyFailures as error:
            return error
        return Unauthorised(NO_VALID_KEY)

    def _check(self, found: Taken | None) -> None:
        if found is not None and not found.allowed:
            self.refused(self.failures.name, "none")
            raise TooManyFailures(retry_after=wait(found))

    async def _own_door(self, scope: Scope, receive: Receive, send: Send) -> None:
        place, failed = place_of(scope), False

        async def watched(message: Message) -> None:
            nonlocal failed
            failed = failed or (message["type"] == "http.response.start" and message["status"] == Unauthorised.status)
            await send(message)

        try:
            self._check(await self.counting.take(place, self.failures, counts=False))
        except TooManyFailures as error:
            await self._refuse(error, [], scope, receive, send)
            return
        await self.app(scope, receive, watched)
        if failed:
            await self.counting.take(place, self.failures)

    async def _refuse(
        self, error: ServiceError, fields: list[tuple[bytes, bytes]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        form = next((form for prefix, form in self.forms.items() if scope["path"].startswith(prefix)), None)
        response = answer(form(error) if form else error)
        response.raw_headers.extend(fields)
        await response(scope, receive, send)


def wait(found: Taken) -> int:
    """Whole seconds after which there is room."""
    return max(1, math.ceil(found.seconds))


def told(quota: Quota, found: Taken | None) -> list[tuple[bytes, bytes]]:
    """The fields RateLimit and RateLimit-Policy; none when nobody counted."""
    if found is None:
        return []
    state = f'"{quota.name}";r={found.remaining};t={wait(found)}'
    return [(b"ratelimit-policy", quota.policy), (b"ratelimit", state.encode())]
