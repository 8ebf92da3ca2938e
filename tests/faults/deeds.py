"""People who change their minds about what was asked: they withdraw, hold and release, extend and refuse at random
moments, and an officer approves candidates. Each call is repeated until its answer is plain; what is known then is
written down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

PATHS: dict[str, tuple[str, str, str, dict[str, str] | None]] = {
    "withdraw": ("requester", "DELETE", "", None),
    "hold": ("operator", "POST", "/hold", {"kind": "identity", "reason": "the name does not match"}),
    "resume": ("operator", "POST", "/resume", None),
    "extend": ("operator", "POST", "/extend", {"reason": "there are many accounts"}),
    "refuse": ("officer", "POST", "/refuse", {"reason": "it is none of ours"}),
}
"""Who does it, and how."""
CHAINS: tuple[tuple[str, ...], ...] = (
    (), ("withdraw",), ("refuse",), ("extend",), ("hold", "resume"), ("hold", "withdraw"), ("hold", "refuse"),
    ("extend", "hold", "resume"),
)  # fmt: skip
"""What may be done to one request, in that order; a hold is always ended."""
ENDS = {"withdraw": "withdrawn", "refuse": "refused"}
DONE, REFUSED, IN_DOUBT = "done", "refused", "in doubt"
AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclass
class Deed:
    """A chain of decisions about one request: the first so long after it was accepted, the others so long after one
    another. `became` says of each that was tried whether it was done, refused, or (refused after a call whose answer
    never came) in doubt."""

    chain: tuple[str, ...] = ()
    after_seconds: float = 0.0
    pause_seconds: float = 0.0
    became: dict[str, str] = field(default_factory=dict)

    @property
    def ends(self) -> frozenset[str]:
        """States that its request may end in."""
        ends = {deed: became for deed, became in self.became.items() if deed in ENDS}
        for deed, became in ends.items():
            if became == DONE:
                return frozenset({ENDS[deed]})
        return frozenset({"published", *(ENDS[deed] for deed, became in ends.items() if became == IN_DOUBT)})


def draw(random: Random) -> Deed:
    """A deed at random moments: while the request waits, is batched, or is at work."""
    return Deed(random.choice(CHAINS), round(random.choice((0, 1, 6)) * random.random(), 2), round(random.random(), 2))


@dataclass
class People:
    """Those who decide, each with the key of a role."""

    base_url: str
    keys: Mapping[str, str]
    patience_seconds: float = 90.0
    strange: list[str] = field(default_factory=list)

    def do(self, request_id: str, deed: Deed) -> None:
        """Carry a deed out to its end."""
        time.sleep(deed.after_seconds)
        for step in deed.chain:
            role, method, path, body = PATHS[step]
            deed.became[step] = self._until_plain(role, method, f"/v1/requests/{request_id}{path}", body)
            if step == "hold" and deed.became[step] == REFUSED:
                return  # a job works on it: there is nothing to end
            time.sleep(deed.pause_seconds)

    def approve(self, model: str, ended: Callable[[], bool], pause_seconds: float) -> None:
        """Let every candidate of a model through until `ended`."""
        while not ended():
            with suppress(httpx.HTTPError, KeyError, ValueError):
                wanted = {"served_model": model, "state": "awaiting_approval"}
                for job in self._call("officer", "GET", "/v1/jobs", params=wanted).json()["items"]:
                    time.sleep(pause_seconds)
                    self._call("officer", "POST", f"/v1/jobs/{job['id']}/approve")
            time.sleep(0.1)

    def _until_plain(self, role: str, method: str, path: str, body: dict[str, str] | None) -> str:
        """DONE, REFUSED, or IN_DOUBT where it is refused after an answer that never came."""
        doubt, deadline = False, time.monotonic() + self.patience_seconds
        while time.monotonic() < deadline:
            try:
                answer = self._call(role, method, path, json=body)
            except httpx.HTTPError:
                doubt = True
            else:
                if answer.is_success:
                    return DONE
                if answer.status_code not in AGAIN:
                    if answer.status_code != 409:
                        self.strange.append(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
                    return IN_DOUBT if doubt else REFUSED
                doubt |= answer.status_code != 429
                if answer.status_code == 500:
                    self.strange.append(f"{method} {path} answered 500: {answer.text[:300]}")
            time.sleep(0.2)
        self.strange.append(f"{method} {path} had no plain answer to the end")
        return IN_DOUBT

    def _call(self, role: str, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[role]}"}
        return httpx.request(
            method, f"{self.base_url}{path}", headers=headers, timeout=5.0, trust_env=False, **more
        )


class Officer:
    """Approves in the background. A context manager."""

    def __init__(self, people: People, model: str, pause_seconds: float) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=people.approve, args=(model, self._ended.is_set, pause_seconds), daemon=True
        )

    def __enter__(self) -> Officer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def told(deeds: Iterable[tuple[str, Deed]]) -> dict[str, dict[str, str]]:
    """What became of each request's deeds, for the record."""
    return {reference: deed.became for reference, deed in deeds if deed.became}
