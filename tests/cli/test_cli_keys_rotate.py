"""`grail keys rotate` as a process of its own, beside an API that has seen the old key already."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Grail
from tests.cli.test_cli_stack import SERVE


def rotate(*arguments: str, expect: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of the command."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE, "keys", "rotate", *arguments],
        env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def status(url: str, key: str) -> int:
    """What the API answers to a key."""
    answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
    return answer.status_code


def rows(grail: Grail) -> dict[str, Any]:
    """Keys by their prefixes."""
    return {row["prefix"]: row for row in grail("keys", "list", "--json").json}


def prefix(key: str) -> str:
    return key.split("_")[1]


@pytest.fixture
def old(grail: Grail, url: str) -> str:
    """A key that the API has let in."""
    made = grail("keys", "create", "Case desk", "--role", "operator").out.strip()
    assert status(url, made) == 200
    return made


def test_a_key_follows_another_with_an_overlap_of_a_day(grail: Grail, url: str, old: str) -> None:
    said, hint = rotate(prefix(old))
    new = said.strip()
    assert said == f"{new}\n" and new.startswith("grail_") and new != old
    assert "valid for 24 h still" in hint and new not in hint
    assert (status(url, old), status(url, new)) == (200, 200)
    found = rows(grail)
    before, after = found[prefix(old)], found[prefix(new)]
    assert before["holder"] == after["holder"]
    assert (after["name"], after["role"], after["expires_at"]) == ("Case desk", "operator", None)
    left = datetime.fromisoformat(before["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    assert before["revoked_at"] is None


def test_after_a_leak_the_old_key_opens_nothing_from_that_moment(grail: Grail, url: str, old: str) -> None:
    new = rotate(old, "--overlap-hours", "0", "--expires-days", "30")[0].strip()
    assert (status(url, old), status(url, new)) == (401, 200)
    ends = datetime.fromisoformat(rows(grail)[prefix(new)]["expires_at"])
    assert timedelta(days=29) < ends - datetime.now(UTC) <= timedelta(days=30)
    said = rotate(prefix(old), expect=1)[1]
    assert "no longer valid" in said and "grail keys create" in said
    assert set(rows(grail)) == {prefix(old), prefix(new)}, "a key that has ended is not followed"


def test_keys_that_can_not_be_followed_are_said_with_the_way_out(grail: Grail, url: str, old: str) -> None:
    assert "grail keys list" in rotate("00000000", expect=1)[1]
    grail("keys", "revoke", prefix(old))
    assert "no longer valid" in rotate(prefix(old), expect=1)[1]
    assert "Usage" in rotate(prefix(old), "--overlap-hours", "-1", expect=2)[1]
    assert len(rows(grail)) == 1
