"""What people wrote reaches a terminal as signs: it colours nothing, moves nothing, and renames no window."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

import httpx
import pytest
import typer

from cli import events, main
from cli.remote import failure
from cli.show import hint, json_of, plain, show_fields, show_json, show_table

EVIL = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\re\x08f\u202eg\u2066h\x7fi\u2028j\U000e0041k"
FORGED = "x\nstate  published"


@pytest.fixture(autouse=True)
def raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal, where nothing is taken out on the way."""
    real = typer.echo
    monkeypatch.setattr(typer, "echo", lambda text="", **more: real(text, color=True, **more))


SHOWN: list[Callable[[], None]] = [
    lambda: hint(EVIL),
    lambda: show_table(("A",), [[EVIL], [{"a": EVIL}], [[EVIL]]], empty=""),
    lambda: show_fields({"a": EVIL, "b": {"c": [EVIL]}}),
    lambda: show_json({"a": EVIL, "b": [EVIL]}),
    lambda: typer.echo(plain(events._line({"at": EVIL, "kind": EVIL, "request_id": EVIL, "data": {"a": EVIL}}))),
]


@pytest.mark.parametrize("show", SHOWN)
def test_no_control_and_no_directional_mark_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str], show: Callable[[], None]
) -> None:
    show()
    written = "".join(capsys.readouterr())
    assert "owned" in written
    hidden = [sign for sign in written if sign != "\n" and unicodedata.category(sign) in {"Cc", "Cf", "Zl", "Zp", "Co"}]
    assert hidden == []


def test_a_value_makes_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    show_fields({"note": FORGED, "state": "received"})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_json_stays_the_same_value() -> None:
    value = {"a": EVIL, EVIL: [1, None, "\u4e2d\u200d\U0001f600"]}
    assert json.loads(json_of(value, indent=2)) == json.loads(json_of(value)) == value
    assert "\u4e2d" in json_of(value)


def test_what_a_server_says_is_wrong_is_shown_as_signs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = {"title": "t", "detail": EVIL, "mend": EVIL, "errors": [{}, {"field": EVIL, "problem": EVIL}]}

    def fails() -> None:
        raise failure(httpx.Response(422, json=problem))

    monkeypatch.setattr(main, "app", fails)
    with pytest.raises(SystemExit):
        main.main()
    written = capsys.readouterr().err
    assert "owned" in written and not set(written) & set("\x1b\x07\x9b\r\x08\u202e\u2066\x7f")
