"""From a `grail serve --embedded` into a backup and into another one, each command a process of its own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.embedded.services import EmbeddedServices
from cli.stack import running_stack
from tests.app.embedded.embedded_host import living, until
from tests.cli.test_cli_stack import SERVE, Served, of_service


def command(data: Path, *arguments: object, expect: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """`grail` for a service with its own servers in `data`: no address is in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAIL_")}
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        env={**environment, "PYTHONPATH": os.getcwd(), "GRAIL_DATA_DIR": str(data), **more},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """The address of a service that runs on `data`, and then does not."""
    with Served(data, None, "--gpu-workers", "0") as served:
        served.said("keys create")
        running = running_stack(data)
        assert running is not None
        yield running.base_url
        served.process.terminate()
        served.process.wait(60)
    until(lambda: not of_service(data))


def names(url: str, key: str) -> list[str]:
    """Served models."""
    answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


@pytest.fixture
def place(open_directory: Path) -> Iterator[Path]:
    """Where services may run; no process and no data outside of it is left."""
    yield open_directory
    for data in ("data", "new", "full"):
        until(lambda at=open_directory / data: not living(at))  # type: ignore[misc]
        if (open_directory / data).exists():
            EmbeddedServices(open_directory / data).destroy()


def test_an_embedded_service_goes_on_from_its_backup_in_another_place(
    place: Path, model_files: tuple[Path, Path]
) -> None:
    data, new, backups = place / "data", place / "new", place / "backups"
    base, adapter = model_files
    with serving(data) as url:
        key = command(data, "keys", "create", "me", "--role", "admin").stdout.strip()
        body = {"name": "people", "base_model_path": str(base), "adapter_path": str(adapter)}
        asked = httpx.post(f"{url}/v1/models", json=body, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
        assert asked.status_code == 201, asked.text
        made = command(data, "backup", "create", GRAIL_BACKUP_DIR=str(backups)).stdout.strip()
        said = command(data, "backup", "restore", made, "--embedded", expect=1).stderr
        assert f"a service runs on {data}" in said
        assert names(url, key) == ["people"]
    assert Path(made).parent == backups
    assert stat.S_IMODE((Path(made) / "database.dump").stat().st_mode) == 0o600
    told = command(new, "backup", "restore", made, "--embedded", "--json")
    found = json.loads(told.stdout)
    assert (found["whole"], found["versions"], found["missing"], found["orphans"]) == (True, 1, [], [])
    assert "see Backup in docs/operations.md" in told.stderr
    assert not of_service(new), "its servers run for the restore alone"
    assert "holds files already" in command(new, "backup", "restore", made, "--embedded", expect=1).stderr
    (new / "adapters").rename(new / "elsewhere")
    assert "the database is not empty" in command(new, "backup", "restore", made, "--embedded", expect=1).stderr
    (new / "elsewhere").rename(new / "adapters")
    with serving(new) as url:
        assert names(url, key) == ["people"]
        assert json.loads(command(new, "backup", "verify", "--json").stdout)["whole"] is True
    with serving(data) as url:
        assert names(url, key) == ["people"], "the one that was backed up is as it was"
