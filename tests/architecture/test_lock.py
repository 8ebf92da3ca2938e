"""What is installed is what is locked; nothing locked is a version that is known to be bad; documents name tests that
exist. Works without a network."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+-]+)")
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
LOCK = {canonicalize_name(form[1]): form[2] for line in LINES if (form := PINNED.fullmatch(line))}
OURS = "grail-server"
OF_THE_ENVIRONMENT = {"setuptools"}
"""What venv and the build bring along; `pip freeze` leaves it out."""
REFUSED = {
    "starlette": ("<0.49.1", "a Range header of many parts takes quadratic time (CVE-2025-62727)"),
    "h11": ("<0.16", "takes malformed chunks, with which requests are smuggled (CVE-2025-43859)"),
    "transformers": ("<4.48", "loads pickles of several models (CVE-2024-11392 to 11394)"),
    "torch": ("<2.6", "runs code of files that are loaded as weights only (CVE-2025-32434)"),
    "jinja2": ("<3.1.6", "its sandbox can be left (CVE-2025-27516)"),
    "urllib3": ("<2.5", "follows redirects where it is told not to (CVE-2025-50181)"),
    "requests": ("<2.32.4", "hands credentials of a .netrc to others (CVE-2024-47081)"),
    "certifi": ("<2024.7.4", "trusts an authority that was withdrawn (CVE-2024-39689)"),
}
"""Versions that no lock of ours may hold, with why."""


def needed(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """What a package needs here, itself left out; markers that do not hold are passed over."""
    found = set()
    for line in requires(name) or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            found.add(canonicalize_name(one.name))
    return found


def test_every_line_of_the_lock_pins_one_version() -> None:
    assert [line for line in LINES if not PINNED.fullmatch(line)] == []
    assert len(LOCK) == len(LINES)


def test_what_is_installed_is_what_is_locked() -> None:
    """A build suffix of torch is its index's own."""
    other = {}
    for name, pinned in LOCK.items():
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            found = "missing"
        if found != pinned:
            other[name] = f"{found}, locked {pinned}"
    assert other == {}


def test_whatever_we_need_is_locked_however_indirectly() -> None:
    """A package that the lock forgets would come in whatever version there is on the day."""
    todo, seen = set(needed(OURS, frozenset({"dev"}))), set()
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= needed(name) - seen
    assert seen - set(LOCK) - OF_THE_ENVIRONMENT == set()


@pytest.mark.parametrize("name", sorted(set(REFUSED) & set(LOCK)))
def test_no_locked_version_is_known_to_be_bad(name: str) -> None:
    specifier, why = REFUSED[name]
    assert Version(LOCK[name]) not in Requirement(f"{name}{specifier}").specifier, why


def test_the_threat_model_names_tests_that_exist() -> None:
    page = (ROOT / "docs/threat-model.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    held = [row.split("|") for row in rows if len(row.split("|")) == 5]
    shown = {row[1].strip(): re.findall(r"`((?:tests|worker)/[^`]+)`", row[3]) for row in held if row[1].strip()}
    named = {threat: places for threat, places in shown.items() if threat not in {"threat", "asset"} and places}
    assert len(named) >= 14
    assert [place for places in named.values() for place in places if not (ROOT / place).exists()] == []
    table = page.split("## What holds, and what shows it")[1].split("##")[0]
    threats = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")} - {"threat"}
    assert {threat for threat in threats if threat not in named} == set()
