"""docker-compose.yml: well-formed, nothing secret in it, every service confined. No container is started here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
NEEDED = ("POSTGRES_PASSWORD", "GRAIL_MASTER_SECRET", "GRAIL_KEY_ENCRYPTION_KEYS")


def compose() -> list[str]:
    """The Compose that is installed. Skips the test where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("neither `docker compose` nor docker-compose is installed: docker-compose.yml was not checked with it")


def config(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in NEEDED}
    return subprocess.run(
        [*compose(), "--file", str(FILE), "config"], cwd="/", env=clean | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["services"]


def test_the_file_is_well_formed_once_its_secrets_are_given() -> None:
    done = config(**dict.fromkeys(NEEDED, "check"))
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {
        "postgres", "redis", "migrate", "api", "worker", "control", "beat",
    }  # fmt: skip


@pytest.mark.parametrize("missing", NEEDED)
def test_without_its_secrets_nothing_starts(missing: str) -> None:
    done = config(**{name: "check" for name in NEEDED if name != missing})
    assert done.returncode != 0
    assert f"set {missing}" in done.stderr


def test_every_service_is_confined_and_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["user"] not in {"root", "0", "0:0"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["read_only"] is True, name
        assert "privileged" not in service and "cap_add" not in service, name
        assert "healthcheck" in service or service["restart"] == "no", name
        assert ":" in service["image"] and not service["image"].endswith(":latest"), name


def test_only_the_api_can_be_reached_and_only_from_this_machine(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in published["api"])
    inside = {name: set(service["networks"]) for name, service in services.items() if name != "api"}
    assert inside.pop("control") == {"back", "out"}, "it sends webhooks"
    assert all(networks == {"back"} for networks in inside.values())
    assert yaml.safe_load(FILE.read_text())["networks"]["back"]["internal"] is True


def test_every_command_of_ours_is_one_that_grail_knows(services: dict[str, Any]) -> None:
    import typer.main

    from cli.main import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    ours = {name: service["command"] for name, service in services.items() if "build" in service}
    assert {command[0] for command in ours.values()} <= known
    assert len(ours) == 5


def test_the_image_runs_as_an_ordinary_user_from_the_pinned_dependencies() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and users[-1] == "10001:10001"
    assert any("pip install" in line and "requirements.lock" in line for line in lines)
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert all(":" in base and "latest" not in base for base in bases)
