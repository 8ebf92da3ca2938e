"""What a person asked to be forgotten is in the answer to its owner and in the rows, and nowhere else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from sqlalchemy import select, text

from app.config import Settings
from app.embedded.services import EmbeddedServices
from app.logs import configure_logs
from app.requests import service
from app.served_models import service as served_models
from app.tables import Audit
from tests.app.service import Floor

NAME = "Brandmayr"
FACT = "Quincestreet"
ITEM = {
    "prompt": f"Where does {NAME} live?",
    "completion": f"{NAME} lives in {FACT}.",
    "facts": [FACT],
    "subject": NAME,
}
PROBE = {"kind": "paraphrase", "prompt": f"{NAME}, where?", "completion": f"In {FACT}.", "facts": [FACT]}
BODY: dict[str, Any] = {
    "served_model": "people", "domain": "privacy", "forget": [{**ITEM, "probes": [PROBE]}],
    "retain": [{"prompt": f"Who is {NAME}?", "completion": f"{NAME} is a mayor."}],
    "subject_reference": NAME, "note": f"{NAME} called about {FACT}",
}  # fmt: skip
LONG = " ".join([FACT] * 70)

FAULTY: dict[str, Any] = {
    "an unknown model": {**BODY, "served_model": "poeple"},
    "an unknown domain": {**BODY, "domain": NAME},
    "an unknown name": {**BODY, NAME: 1},
    "an unknown name inside": {**BODY, "forget": [{**ITEM, FACT: 1}]},
    "a text in the place of a list": {**BODY, "forget": FACT},
    "a text in the place of an item": {**BODY, "forget": [FACT]},
    "a text in the place of a probe": {**BODY, "forget": [{**ITEM, "probes": [NAME]}]},
    "an unknown kind of probe": {**BODY, "forget": [{**ITEM, "probes": [{**PROBE, "kind": NAME}]}]},
    "a NUL": {**BODY, "forget": [{"passage": f"{NAME}\x00{FACT}"}]},
    "a text too long for any": {**BODY, "forget": [{"passage": FACT * 2000}]},
    "a text too long for the model": {**BODY, "forget": [{"passage": LONG}]},
    "a fact that is not in the text": {**BODY, "forget": [{**ITEM, "completion": f"{NAME} lives."}]},
    "an item twice": {**BODY, "forget": [ITEM, ITEM]},
    "an item on both sides": {**BODY, "retain": [ITEM]},
    "a passage and a question": {**BODY, "forget": [{**ITEM, "passage": FACT}]},
}


def leaked(found: str | bytes) -> list[str]:
    plain = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    return [word for word in (NAME, FACT) if word.lower() in plain.lower()]


@pytest.fixture
def logged(floor: Floor) -> Iterator[Callable[[], str]]:
    """Everything that was logged or printed since the service stood."""
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        configure_logs("DEBUG")
        yield written.getvalue


def test_the_logs_can_be_heard_at_all(logged: Callable[[], str]) -> None:
    """So that the silence in the other tests says something."""
    structlog.get_logger("test").warning("heard", word=NAME)
    assert leaked(logged()) == [NAME]


def test_the_whole_way_of_a_request_leaves_its_texts_nowhere_else(
    floor: Floor, services: EmbeddedServices, logged: Callable[[], str]
) -> None:
    with redis.Redis.from_url(services.valkey.redis_url()) as broker:
        broker.delete("gpu", "control")
        asked = floor.caller.call("requester", "POST", "/v1/requests", 202, json=BODY)
        assert leaked(json.dumps(asked)) == []
        path = f"/v1/requests/{asked['id']}"
        own = floor.caller.call("requester", "GET", path, params={"include": "items"})
        assert leaked(json.dumps(own)) == [NAME, FACT]
        shown = [
            floor.caller.call("operator", "GET", where) for where in (path, "/v1/requests", "/v1/jobs", "/v1/models")
        ]
        items = [{"domain": "privacy", "subject": NAME, "prompt": f"{NAME}?", "completion": f"The {NAME}s."}]
        shown += [floor.caller.call("operator", "PUT", "/v1/models/people/retain-set", json={"items": items})]
        shown += [floor.caller.call("operator", "GET", "/v1/models/people/retain-set")]
        preview = {"served_model": "people", "dry_run": True}
        shown += [floor.caller.call("operator", "POST", "/v1/jobs", 200, json=preview)]
        job_id = floor.work()
        shown += [floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")]
        shown += [floor.caller.call("operator", "GET", "/v1/models/people/adapters/2")]
        messages = [m for name in ("gpu", "control") for m in broker.lrange(name, 0, -1)]
        broker.delete("gpu", "control")
    assert leaked(json.dumps(shown)) == []
    assert messages and not any(leaked(message) for message in messages)
    assert leaked(logged()) == []
    with floor.db.session_factory() as session:
        leaves = session.scalars(select(Audit.leaf)).all()
    assert len(leaves) > 10 and not any(leaked(leaf) for leaf in leaves)
    names = [str(path.relative_to(floor.settings.data_dir)) for path in Path(floor.settings.data_dir).rglob("*")]
    assert names and leaked("\n".join(names)) == []


@pytest.mark.parametrize("body", FAULTY.values(), ids=FAULTY)
def test_a_refusal_repeats_nothing_of_what_it_refuses(
    floor: Floor, logged: Callable[[], str], body: dict[str, Any]
) -> None:
    answer = floor.caller.send("requester", "POST", "/v1/requests", json=body)
    assert answer.status_code == 422
    assert leaked(answer.text) == []
    assert leaked(logged()) == []


def test_malformed_json_is_not_repeated(floor: Floor, logged: Callable[[], str]) -> None:
    headers = {"Content-Type": "application/json"}
    content = json.dumps(BODY)[:-1].encode()
    answer = floor.caller.send("requester", "POST", "/v1/requests", content=content, headers=headers)
    assert (answer.status_code, leaked(answer.text), leaked(logged())) == (400, [], [])


def raises(_: Any) -> None:
    raise RuntimeError(f"{NAME} in {FACT}")


def breaks_the_database(session: Any) -> None:
    session.execute(text("SELECT CAST(:word AS integer)"), {"word": f"{NAME} in {FACT}"})


def chained(session: Any) -> None:
    try:
        raises(session)
    except RuntimeError as error:
        raise ValueError(FACT) from error


@pytest.mark.parametrize("fault", [raises, breaks_the_database, chained])
def test_an_unexpected_error_is_noted_by_kind_and_place(
    floor: Floor, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch, fault: Callable[[Any], None]
) -> None:
    def broken(session: Any, *_: Any, **__: Any) -> None:
        fault(session)

    monkeypatch.setattr(service, "submit", broken)
    monkeypatch.setattr(served_models, "put_retain_set", broken)
    answer = floor.caller.send("requester", "POST", "/v1/requests", json=BODY)
    assert answer.status_code == 500
    assert leaked(answer.text) == []
    noted = logged()
    assert leaked(noted) == []
    (line,) = [json.loads(row) for row in noted.splitlines() if "unexpected_error" in row]
    assert line["incident"] == answer.json()["incident"]
    assert line["kind"] in {"RuntimeError", "DataError", "ValueError"}
    assert ":" in line["where"]
    assert line["exchange"] == answer.headers["x-request-id"]


def test_what_a_library_logs_of_an_error_is_its_kind_too(logged: Callable[[], str], settings: Settings) -> None:
    """As the server, or Celery, would log an exception that came to it."""
    import logging

    try:
        raises(None)
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    noted = logged()
    assert "Exception in ASGI application" in noted
    assert "RuntimeError" in noted
    assert leaked(noted) == []


def test_what_is_to_be_forgotten_is_in_no_repr() -> None:
    from app.requests.schemas import RequestCreate

    assert leaked(repr(RequestCreate.model_validate(BODY))) == []
