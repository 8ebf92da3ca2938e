"""Filters by time: any moment that a date can name, and nothing that only looks like one."""

from __future__ import annotations

import pytest

from tests.app.service import Floor

PATH = "/v1/requests"


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00",
    ],
)  # fmt: skip
def test_the_first_and_the_last_moment_are_moments(shared: Floor, moment: str) -> None:
    asked = shared.ask(1)
    past = not moment.startswith("9999")
    for name, found in (("received_after", past), ("received_before", not past)):
        items = shared.caller.call("requester", "GET", PATH, params={name: moment})["items"]
        assert (asked in [item["id"] for item in items]) == found, name


@pytest.mark.parametrize(
    "moment", ["2026", "1767225600", "1767225600.5", "-1", "1e9", "0", "2026-01-01", "2026-01-01T00:00:00", "now", ""]
)
def test_what_only_looks_like_a_moment_is_refused(shared: Floor, moment: str) -> None:
    """A year alone would be taken for so many seconds of the year 1970."""
    for name in ("received_after", "received_before"):
        found = shared.caller.refused("requester", "GET", PATH, params={name: moment})
        assert found == (422, "unprocessable"), name
