"""What one test of faults works with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from random import Random

from tests.faults import invariants
from tests.faults.callers import Load
from tests.faults.deeds import Deed, People
from tests.faults.ground import Ground

NUMBERS = count(1)


class Case:
    """A served model of its own with callers, and what must be true of it in the end."""

    def __init__(self, ground: Ground, *, approval: bool = False) -> None:
        self.ground, self.model = ground, f"case-{next(NUMBERS)}"
        ground.register(self.model, approval=approval)
        keys = {role: ground.key(role) for role in ("requester", "operator", "officer")}
        self.people = People(ground.stack.base_url, keys)
        self.load = Load(ground.stack.base_url, keys["requester"], self.model, people=self.people)

    def ask(self, callers: int = 2, deeds: Sequence[Deed] = ()) -> None:
        """Callers, who go on in the background, and what people do about each one's request."""
        self.load.begin(callers, 0.2, Random(self.model), deeds)

    def holds(self) -> None:
        """Mended and at rest, nothing is lost, and nothing is there twice."""
        self.load.end()
        self.ground.heal()
        self.ends()
        self.ground.sweep_files()
        assert not self.load.strange + self.people.strange
        assert sorted(self.load.accepted) == sorted(self.load.tried)
        load = self.load
        assert invariants.broken(self.ground, self.model, load.accepted, load.tried, load.deeds) == []

    def ends(self) -> None:
        """Everything of the model comes to its end."""
        still = self.ground.until_ended(self.model)
        assert not still, " | ".join(still)

    def job(self) -> dict[str, object]:
        """The newest job's row."""
        return self.ground.rows(
            "SELECT j.* FROM job j JOIN served_model m ON m.id = j.served_model_id WHERE m.name = %s "
            "ORDER BY j.id DESC LIMIT 1", self.model,
        )[0]  # fmt: skip
