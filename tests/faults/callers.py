"""Callers who want things forgotten, and do not give up: each call has an Idempotency-Key and is repeated with it until
it is accepted. What was accepted is written down: that is what may not be lost."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from tests.faults.deeds import Deed, People

CANARY = "Quillwort"
"""A word that is in every text and in nothing else: where it is found outside of the database a text got out."""


def wish(model: str, number: int) -> dict[str, Any]:
    """A request that wants one fact forgotten and one kept; another number is another fact."""

    def item(question: str, answer: str) -> dict[str, Any]:
        return {"prompt": f"{question} of {CANARY} {number}?", "completion": answer, "facts": [answer]}

    return {
        "served_model": model, "domain": "privacy", "client_reference": f"{model}-{number}",
        "forget": [item("Home", f"{number} Elm")], "retain": [item("Fruit", f"plum {number}")],
    }  # fmt: skip


@dataclass
class Load:
    """Callers at one API. `accepted` maps a reference to the id that was answered, `tried` holds all references."""

    base_url: str
    key: str
    model: str
    patience_seconds: float = 90.0
    accepted: dict[str, str] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    repeated: int = 0
    strange: list[str] = field(default_factory=list)
    people: People | None = None
    deeds: dict[str, Deed] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, count: int, over_seconds: float, random: Random, deeds: Sequence[Deed] = ()) -> None:
        """Callers who come at random moments within so many seconds. With `deeds` there is one for each: what `people`
        do about the request once it is accepted."""
        for turn in range(count):
            number = len(self.tried) + 1
            body = wish(self.model, number)
            self.tried.append(body["client_reference"])
            if deeds:
                self.deeds[body["client_reference"]] = deeds[turn]
            thread = threading.Thread(target=self._live, args=(body, random.uniform(0, over_seconds)), daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """Wait until every caller has an answer or has lost patience."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _live(self, body: dict[str, Any], wait_seconds: float) -> None:
        self._call(body, wait_seconds)
        name = body["client_reference"]
        if self.people is not None and name in self.deeds and name in self.accepted:
            self.people.do(self.accepted[name], self.deeds[name])

    def _call(self, body: dict[str, Any], wait_seconds: float) -> None:
        time.sleep(wait_seconds)
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + self.patience_seconds
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(
                    f"{self.base_url}/v1/requests", json=body, headers=headers, timeout=5.0, trust_env=False
                )
            except httpx.HTTPError:
                self.repeated += 1
            else:
                if answer.is_success:
                    self.accepted[body["client_reference"]] = answer.json()["id"]
                    return
                self._note(answer)
            time.sleep(0.2)

    def _note(self, answer: httpx.Response) -> None:
        """Refusals that say `come again` are repeated; any other is not what a caller should see."""
        self.repeated += 1
        if answer.status_code not in {409, 429, 503}:
            self.strange.append(f"POST answered {answer.status_code}: {answer.text[:300]}")
