"""What a person sees when a command can not do what was asked; and that asking for help is quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.embedded.errors import AlreadyRunning
from app.errors import NotFound
from cli import main as border
from cli.models import read_lines, read_object, settings_of
from cli.remote import at, failure
from tests.cli.conftest import Grail

SECRET = "Mirela lives at 14 Larch Quay"

IMPORTS = """
import sys
from cli.main import main
for arguments in (["--help"], ["serve", "--help"], ["jobs", "run", "--help"], ["methods"]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
loaded = {name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "peft", "numpy"}
assert not loaded, loaded
"""


def test_help_does_not_load_the_learning_stack() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage") == 3


def test_every_command_is_there_and_explains_itself(grail: Grail) -> None:
    named = grail("--help").out
    for command in ("serve", "api", "worker", "migrate", "keys", "models", "requests", "jobs", "adapters", "doctor",
                    "model-path", "teach", "methods", "webhooks", "events"):  # fmt: skip
        assert command in named
        assert "Usage" in grail(command, "--help").out


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--port", "many"], ["worker", "tpu"], ["jobs", "show"]])
def test_a_wrong_call_ends_with_2(grail: Grail, arguments: list[str]) -> None:
    assert "Usage" in grail(*arguments, expect=2).err


def test_without_a_key_the_way_to_one_is_said(grail: Grail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAIL_KEY", raising=False)
    said = grail("jobs", "list", expect=1)
    assert "no API key" in said.err and "grail keys create" in said.err
    assert said.out == ""


def test_an_absent_service_is_named_with_its_address(grail: Grail) -> None:
    said = grail("models", "list", "--url", "http://127.0.0.1:9", "--key", "k", expect=1)
    assert "no service answers at http://127.0.0.1:9" in said.err and "grail serve --embedded" in said.err
    for wrong in ("http:", "localhost:8000", "ftp://here", "http://h:x"):
        assert f"{wrong} is no address" in grail("models", "list", "--url", wrong, "--key", "k", expect=1).err


def test_a_problem_document_becomes_what_is_wrong_each_field_and_the_way_out() -> None:
    problem = {
        "title": "A text is longer than the model's context", "detail": "forget.0: 7 tokens too long (and 1 more)",
        "mend": "Shorten it.",
        "errors": [{"field": "forget.0", "problem": "7 tokens too long"}, {"field": "forget.4", "problem": "9 more"}],
    }  # fmt: skip
    request = httpx.Request("POST", "http://here/v1/requests")
    error = failure(httpx.Response(422, json=problem, request=request))
    assert error.detail == "forget.0: 7 tokens too long (and 1 more)\n  forget.4: 9 more"
    assert error.mend == "Shorten it."
    foreign = failure(httpx.Response(502, text="<html>bad gateway", request=request))
    assert "502" in foreign.detail and "GRAIL_URL" in foreign.mend and "html" not in foreign.detail


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFound("there is no such thing", mend="Look elsewhere."), ["there is no such thing", "Look elsewhere."]),
        (AlreadyRunning("process 5 already runs"), ["process 5 already runs"]),
        (FileNotFoundError(2, "No such file or directory", "items.json"), ["No such file", "items.json"]),
    ],
)
def test_known_errors_are_one_line_and_a_way_out(
    grail: Grail, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(border, "app", fails)
    said = grail(expect=1)
    assert all(word in said.err for word in words)
    assert "Traceback" not in said.err and len(said.err.splitlines()) <= 2


def test_an_unforeseen_error_says_where_but_never_the_text_it_carries(
    grail: Grail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(border, "app", fails)
    monkeypatch.delenv("GRAIL_DEBUG", raising=False)
    said = grail(expect=1)
    assert "RuntimeError" in said.err and Path(__file__).name in said.err and "GRAIL_DEBUG" in said.err
    assert "Larch" not in said.err
    monkeypatch.setenv("GRAIL_DEBUG", "1")
    with pytest.raises(RuntimeError):
        border.main()


def test_a_setting_that_makes_no_sense_is_named_without_its_value(
    grail: Grail, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.config import Settings

    monkeypatch.setenv("GRAIL_LEASE_SECONDS", "-77")
    monkeypatch.setattr(border, "app", Settings)
    said = grail(expect=1)
    assert "GRAIL_LEASE_SECONDS" in said.err and "greater than 0" in said.err and "77" not in said.err


def test_a_file_with_a_broken_line_names_the_line_and_not_its_text(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"subject": "a"}) + "\n\n" + f'{{"prompt": "{SECRET}"\n')
    with pytest.raises(Exception, match=r"items\.jsonl, line 3 is not a JSON object") as caught:
        read_lines(path)
    assert "Larch" not in str(caught.value)
    path.write_text("[1]")
    with pytest.raises(Exception, match="holds no JSON object"):
        read_object(path)


def test_settings_are_nested_by_their_dots_and_read_as_json() -> None:
    pairs = ["window_seconds=60", "gate.min_rs=90.5", "gate.min_cus=80", "unlearn.objective=ascent"]
    assert settings_of([*pairs, "require_approval=true"]) == {
        "window_seconds": 60,
        "gate": {"min_rs": 90.5, "min_cus": 80},
        "unlearn": {"objective": "ascent"},
        "require_approval": True,
    }
    for wrong in (["gate"], ["=5"], ["gate=1", "gate.min_rs=2"]):
        with pytest.raises(Exception, match=r"NAME=VALUE|set twice"):
            settings_of(wrong)


def test_a_slash_in_a_name_stays_in_the_name() -> None:
    assert at("models", "../keys", "adapters", 3) == "/v1/models/..%2Fkeys/adapters/3"
