"""Who wants few of very many events reads them in pieces of bounded size, and misses none."""

from __future__ import annotations

from typing import Any

import pytest

from app.events import repository
from tests.app.service import Floor, until_settled


@pytest.mark.parametrize("query", [{"kinds": "request.withdrawn"}, {"served_model": "people"}], ids=["kind", "model"])
def test_a_sparse_feed_is_read_in_bounded_pieces_to_its_end(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    monkeypatch.setattr(repository, "SCANNED", 3)
    floor.register("others")
    asked = [floor.ask(number, model="others") for number in range(7)]
    asked.append(floor.ask(8))
    for one in (asked[0], asked[-1]):
        floor.caller.call("requester", "DELETE", f"/v1/requests/{one}")
    until_settled(floor.db)
    expected = [asked[-1]] * 2 if "served_model" in query else [asked[0], asked[-1]]
    assert whole(floor, query) == expected


def whole(floor: Floor, query: dict[str, str]) -> list[str]:
    """The subjects of all events of a feed, page by page."""
    found, after = [], None
    for _ in range(50):
        wanted: dict[str, Any] = {**query, "limit": 2} | ({"after": after} if after else {})
        page = floor.caller.call("requester", "GET", "/v1/events", params=wanted)
        found += [one["request_id"] for one in page["items"]]
        assert page["next_cursor"] != after or not page["more"], "the reader does not move"
        after = page["next_cursor"]
        if not page["more"]:
            return found
    raise AssertionError("the feed has no end")
