"""Every route that the application answers, those too that its OpenAPI document leaves out, has a row in ONE table; and
no key, a revoked one, an expired one or another role's opens what the row does not say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import update

from app.auth import Role, claimed, hash_key, principal
from app.config import Settings
from app.db import transaction
from app.description import reader
from app.events.positions import START
from app.events.repository import EventFilter
from app.events.service import look
from app.keys.service import create_key
from app.main import create_app
from app.tables import Key, Webhook
from app.telemetry.endpoints import reader as scraper
from app.webhooks import repository as webhooks
from tests.app.service import Floor, revoke, slug
from tests.app.test_openapi import ANYONE, OPEN, ROLES, address, sent

HIDDEN: dict[tuple[str, str], frozenset[str]] = {
    ("GET", "/openapi.json"): ANYONE,
    ("GET", "/docs"): ANYONE,
    ("GET", "/docs/{file}"): ANYONE,
    ("GET", "/metrics"): frozenset({Role.OPERATOR, Role.OFFICER, Role.ADMIN}),
}
"""Routes that the document leaves out; the others stand in `ROLES` and `OPEN`."""
TABLE = {**ROLES, **HIDDEN}
GUARDS = {principal, claimed, reader, scraper}
"""Dependencies that look at the key."""


def routes() -> Iterator[tuple[str, str, APIRoute]]:
    """Method, path and route of everything that the application answers."""
    for context in iter_route_contexts(create_app(Settings()).routes):
        route = context.original_route
        assert isinstance(route, APIRoute), f"{route!r} is no route that these tests know how to walk over"
        for method in context.methods or ():
            yield method, str(context.path), route


ROUTES = {(method, path): route for method, path, route in routes()}


def asks(dependant: Dependant) -> bool:
    """Whether a route, or anything that it depends on, looks at the key."""
    return dependant.call in GUARDS or any(asks(part) for part in dependant.dependencies)


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert set(ROUTES) == set(TABLE) | OPEN
    assert len(TABLE) == len(ROLES) + len(HIDDEN)


@pytest.mark.parametrize("key", sorted(ROUTES))
def test_every_route_but_those_of_health_looks_at_the_key(key: tuple[str, str]) -> None:
    assert asks(ROUTES[key].dependant) == (key not in OPEN)


def shut_out(floor: Floor, plaintext: str | None) -> None:
    """No route of the table opens, and all say the same."""
    given = {} if plaintext is None else {"Authorization": f"Bearer {plaintext}"}
    words = set()
    for method, path in TABLE:
        more = sent(method, path) if (method, path) in ROLES else {}
        place = address(path) if (method, path) in ROLES else path.format(file="swagger-ui.css")
        answer = floor.caller.client.request(method, place, **more | {"headers": given | more.get("headers", {})})
        assert (answer.status_code, slug(answer)) == (401, "unauthorised"), f"{method} {path}"
        words.add((answer.json()["title"], answer.json()["detail"]))
    assert len(words) == 1


def opens(floor: Floor, plaintext: str) -> None:
    header = {"Authorization": f"Bearer {plaintext}"}
    assert floor.caller.client.get("/v1/models", headers=header).status_code == 200


def made(floor: Floor, role: Role, expires_at: datetime | None = None) -> str:
    with transaction(floor.db) as session:
        return create_key(session, "passing", role, expires_at=expires_at)[1]


def test_no_route_opens_without_a_key(shared: Floor) -> None:
    shut_out(shared, None)


def test_a_revoked_key_opens_no_route(shared: Floor) -> None:
    plaintext = made(shared, Role.ADMIN)
    opens(shared, plaintext)  # a process may remember the key from here on
    revoke(shared.db, plaintext)
    shut_out(shared, plaintext)


def test_a_key_opens_until_it_expires_and_no_route_after_that(shared: Floor) -> None:
    now = datetime.now(UTC)
    valid, expired = (made(shared, Role.ADMIN, now + timedelta(hours=hours)) for hours in (1, -1))
    opens(shared, valid)
    shut_out(shared, expired)
    with transaction(shared.db) as session:
        session.execute(update(Key).where(Key.hash == hash_key(valid)).values(expires_at=now))
    shut_out(shared, valid)


def test_streams_and_webhooks_of_an_expired_key_end(shared: Floor) -> None:
    shared.ask(1)  # something that webhooks could be told of
    past = datetime.now(UTC) - timedelta(seconds=1)
    with transaction(shared.db) as session:
        key, _ = create_key(session, "passing", Role.OFFICER, expires_at=past)
        hook = Webhook(
            created_by=key.id, url="https://hooks.example.com/", kinds=[], secret_generation=1, form="standard",
            after_xid=0, after_id=0, created_at=past,
        )  # fmt: skip
        session.add(hook)
        session.flush()
        assert look(session, EventFilter(), key.id, START).ended == "key-revoked"
        behind, _ = webhooks.behind(session, webhooks.last_settled(session, 2**62), below=2**62, limit=100)
        assert hook not in behind
        key.expires_at = None
        session.flush()
        assert look(session, EventFilter(), key.id, START).ended is None
        behind, _ = webhooks.behind(session, webhooks.last_settled(session, 2**62), below=2**62, limit=100)
        assert hook in behind


@pytest.mark.parametrize(("method", "path"), sorted(HIDDEN))
def test_a_hidden_route_opens_for_the_roles_of_its_row(shared: Floor, method: str, path: str) -> None:
    for role in sorted(ANYONE):
        status = shared.caller.send(role, method, path.format(file="swagger-ui.css")).status_code
        assert status == (200 if role in HIDDEN[method, path] else 403)
