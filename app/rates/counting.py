"""Counts calls in Redis or Valkey, and lets them pass uncounted while it does not answer.

A deletion that is refused for want of a counter would be worse than a caller who is too quick: what is at stake is a
deadline. So limits fail open, and that is told: in a log line at each change, in a metric, in /readyz.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

import structlog
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from app.config import Settings
from app.gathering import Gathering
from app.rates.quotas import Quota
from app.rates.window import SCRIPT, Taken, arguments, taken

log = structlog.get_logger(__name__)

PREFIX = "grail:rate:"
MOST_AT_ONCE = 64
"""Calls that one round trip counts: the server is held up by no more."""
NO_SERVER = "no Redis or Valkey counts calls: set GRAIL_RATE_URL, or GRAIL_RATE_LIMITS_ON=false"
AWAY = "calls are not counted and no limit holds: the server of GRAIL_RATE_URL (else the broker) does not answer"


def url_of(settings: Settings) -> str | None:
    """Where calls are counted, as redis-py says it: the broker, unless there is a server for that; None where the
    broker is of another kind."""
    url = settings.rate_url or settings.broker_url
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":  # Celery's word
        number = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        return f"unix://{parts.path}?db={number.strip('/') or 0}"
    return url if parts.scheme in {"redis", "rediss", "unix"} else None


def answers(url: str, timeout_seconds: float) -> bool:
    """Whether the counter answers, for who asks once."""
    try:
        with SyncRedis.from_url(
            url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds
        ) as connection:
            return bool(connection.ping())
    except (RedisError, OSError, ValueError):
        return False


class Counting:
    """The counter of one process. After a failure nobody asks for `rate_pause_seconds`: one call then tries again,
    while the others go on without waiting."""

    def __init__(self, settings: Settings, told: Callable[[bool], None] = lambda _: None) -> None:
        self.settings, self._told = settings, told
        self.url = url_of(settings)
        self._redis: Redis | None = None
        self._script: AsyncScript | None = None
        self._gathering: Gathering[tuple[str, list[str]], list[int]] = Gathering(self._ask, most=MOST_AT_ONCE)
        self._again_at = 0.0
        self.away = self.url is None

    async def take(self, caller: str, quota: Quota, *, counts: bool = True) -> Taken | None:
        """Count a call, or look whether there is room for one (`counts=False`); None when nobody counts."""
        now = time.monotonic()
        if not self.settings.rate_limits_on or self.url is None or now < self._again_at:
            return None
        if self.away:
            self._again_at = now + self.settings.rate_pause_seconds  # this call tries, the others do not wait for it
        try:
            answered = await self._gathering.answer(
                (f"{PREFIX}{quota.name}:{caller}", arguments(quota, counts=counts))
            )
        except (RedisError, OSError) as error:
            self._again_at = time.monotonic() + self.settings.rate_pause_seconds
            self._turn(away=True, kind=type(error).__name__)
            return None
        self._again_at = 0.0
        self._turn(away=False)
        return taken(answered)

    def begin(self) -> None:
        """Say once whether anybody counts."""
        if not self.settings.rate_limits_on:
            return
        self._told(not self.away)
        if self.url is None:
            log.warning("rates_not_counted", kind="NoServer", mend=NO_SERVER)

    async def end(self) -> None:
        """Close connections."""
        if self._redis is not None:
            await self._redis.aclose()
        self._redis = self._script = None

    def warning(self) -> str | None:
        """What /readyz says of it."""
        if not self.settings.rate_limits_on or not self.away:
            return None
        return NO_SERVER if self.url is None else AWAY

    async def _ask(self, some: Sequence[tuple[str, list[str]]]) -> list[list[int]]:
        """The script's answer for each of (key, arguments). Raises RedisError, OSError."""
        assert self.url is not None  # noqa: S101 - nobody asks otherwise
        script = self._ready(self.url)
        answered: list[list[int]] = await script(
            keys=[key for key, _ in some], args=[argument for _, arguments_ in some for argument in arguments_]
        )
        return answered

    def _ready(self, url: str) -> AsyncScript:
        if self._redis is None or self._script is None:
            seconds = self.settings.rate_timeout_seconds
            self._redis = Redis.from_url(
                url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0), protocol=2,
                max_connections=self.settings.max_in_flight,
            )  # fmt: skip
            self._script = self._redis.register_script(SCRIPT)
        return self._script

    def _turn(self, *, away: bool, kind: str = "") -> None:
        if away == self.away:
            return
        self.away = away
        self._told(not away)
        if away:
            log.warning("rates_not_counted", kind=kind, mend="No limit holds until it answers again.")
        else:
            log.info("rates_counted_again")
