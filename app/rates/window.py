"""The sliding window: calls of the last `seconds` counted in SLOTS slots, in one script that the server runs at once.

The promise, for any arrivals: never more than `limit` calls in any window of `seconds`, and a call is forgotten between
`seconds` and `seconds` * (1 + 1 / SLOTS) after it was made. (The counter of two buckets, which weighs the last one by
its share, lets through up to twice the limit when calls come at a bucket's end.) Calls that are refused do not count.

A caller costs one hash of at most SLOTS + 2 small numbers, which goes away by itself. The time is the server's, so that
all processes share one; slots of a future that a clock went back from are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.rates.quotas import Quota

SLOTS = 12
SCRIPT = """
local function take(key, length, slots, limit, counts, now)
    if not now then
        local time = redis.call('TIME')
        now = time[1] * 1000 + math.floor(time[2] / 1000)
    end
    local at = math.floor(now / length)
    local kept, used, alive = redis.call('HGETALL', key), 0, {}
    for i = 1, #kept, 2 do
        local slot, calls = tonumber(kept[i]), tonumber(kept[i + 1])
        if slot < at - slots or slot > at + 1 then
            redis.call('HDEL', key, kept[i])
        else
            used = used + calls
            alive[#alive + 1] = {slot, calls}
        end
    end
    local function left(slot)
        return (slot + slots + 1) * length - now
    end
    table.sort(alive, function(one, other) return one[1] < other[1] end)
    if used < limit then
        if counts then
            redis.call('HINCRBY', key, at, 1)
            redis.call('PEXPIRE', key, (slots + 2) * length)
            used = used + 1
        end
        return {1, limit - used, left(alive[1] and alive[1][1] or at)}
    end
    for _, one in ipairs(alive) do
        used = used - one[2]
        if used < limit then
            return {0, 0, left(one[1])}
        end
    end
end
local answers = {}
for i, key in ipairs(KEYS) do
    local of = (i - 1) * 5
    answers[i] = take(
        key, tonumber(ARGV[of + 1]), tonumber(ARGV[of + 2]), tonumber(ARGV[of + 3]), ARGV[of + 4] == '1',
        tonumber(ARGV[of + 5])
    )
end
return answers
"""
"""KEYS: one of each call's caller, in the calls' order. ARGV, five for each: a slot's milliseconds, their number, the
limit, whether the call counts, and, for tests, the time in milliseconds. Answers for each whether there was room, how
many more have room, and the milliseconds until there is more room."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the window says. `seconds` from now there is room again, or more."""

    allowed: bool
    remaining: int
    seconds: float


def arguments(quota: Quota, *, counts: bool, now_ms: int | None = None) -> list[str]:
    """The script's ARGV."""
    length = max(1, quota.seconds * 1000 // SLOTS)
    return [str(length), str(SLOTS), str(quota.limit), "1" if counts else "0", "" if now_ms is None else str(now_ms)]


def taken(answered: Sequence[int]) -> Taken:
    """The script's answer."""
    allowed, remaining, milliseconds = answered
    return Taken(bool(allowed), remaining, milliseconds / 1000)
