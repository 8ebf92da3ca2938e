"""Settings: each bound that is set is the one that is enforced and shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings, load_settings

SHOW = """
import json
from app.main import create_app
schemas = create_app().openapi()["components"]["schemas"]
create = schemas["RequestCreate"]["properties"]
print(json.dumps({
    "forget": create["forget"]["maxItems"],
    "note": create["note"]["anyOf"][0]["maxLength"],
    "passage": schemas["Item"]["properties"]["passage"]["anyOf"][0]["maxLength"],
    "retain_set": schemas["RetainSetPut"]["properties"]["items"]["maxItems"],
    "reason": schemas["Refusal"]["properties"]["reason"]["maxLength"],
}))
"""


def test_bounds_from_the_environment_stand_in_the_document() -> None:
    bounds = {
        "GRAIL_MAX_ITEMS_PER_REQUEST": "7", "GRAIL_MAX_NOTE_CHARS": "50", "GRAIL_MAX_TEXT_CHARS": "99",
        "GRAIL_MAX_RETAIN_SET_ITEMS": "11",
    }  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env={**os.environ, **bounds}, capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout) == {"forget": 7, "note": 50, "passage": 99, "retain_set": 11, "reason": 50}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_body_bytes": 0}, {"lease_seconds": 0}, {"lease_seconds": -1}, {"max_tries": 0}, {"sweep_seconds": 0},
        {"max_reference_chars": 201}, {"max_note_chars": 2001}, {"request_due_days": 0}, {"model_roots": "nowhere"},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**fields)


def test_settings_are_read_once_and_can_not_be_changed(settings: Settings) -> None:
    assert load_settings() is load_settings()
    with pytest.raises(ValidationError):
        settings.max_tries = 9  # type: ignore[misc]


def test_secrets_are_read_from_files_and_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://grail:hunter2@db/grail\n")
    monkeypatch.delenv("GRAIL_DATABASE_URL", raising=False)
    monkeypatch.setenv("GRAIL_DATABASE_URL_FILE", str(tmp_path / "url"))
    load_settings.cache_clear()
    try:
        settings = load_settings()
    finally:
        load_settings.cache_clear()
        monkeypatch.delenv("GRAIL_DATABASE_URL", raising=False)
    assert settings.database_url == "postgresql://grail:hunter2@db/grail"
    assert "hunter2" not in repr(settings)


def test_models_come_from_the_data_directory_and_here_unless_said_otherwise(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path, model_roots=[]).allowed_roots == [tmp_path, Path.cwd()]
    assert Settings(data_dir=tmp_path, model_roots=[tmp_path / "m"]).allowed_roots == [tmp_path / "m"]
