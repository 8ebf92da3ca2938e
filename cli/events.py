"""`grail events`: what happened to requests and jobs, and with --follow what comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer

from cli.failures import CommandFailed
from cli.remote import Key, Remote, Url, at, connect
from cli.show import AsJson, hint, json_of, plain, when

STREAM = {"Accept": "text/event-stream"}
PAUSE_SECONDS = 1.0
SILENCE_SECONDS = 90.0
"""Longer than the service is ever silent on a stream."""
AWAY = frozenset({502, 503, 504})


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and show what comes; Ctrl-C ends it.")] = False,
    request: Annotated[str | None, typer.Option(help="Of this request alone.")] = None,
    job: Annotated[str | None, typer.Option(help="Of this job alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this served model.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Of this kind, as request.published or job.*.")] = None,
    after: Annotated[str | None, typer.Option(help="Behind the event with this id; `latest`: what comes.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """What happened, oldest first. A connection that breaks is made anew where it ended."""
    api = connect(url, key)
    path = at("requests", request, "events") if request else at("jobs", job, "events") if job else at("events")
    query = {"kinds": kind or None, "served_model": model if not request and not job else None}
    found = _followed(api, path, after, query) if follow else _pages(api, path, after, query)
    for event in found:
        typer.echo(json_of(event) if as_json else plain(_line(event)))


def _pages(api: Remote, path: str, after: str | None, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    more = True
    while more:
        page = api.get(path, after=after, limit=200, **query)
        yield from page["items"]
        after, more = page["next_cursor"], page["more"]


def _followed(api: Remote, path: str, after: str | None, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Events as they come, until what they are about has ended."""
    while True:
        wanted = {name: value for name, value in {**query, "after": after}.items() if value is not None}
        try:
            with api.client.stream("GET", path, params=wanted, headers=STREAM, timeout=SILENCE_SECONDS) as answer:
                if answer.status_code not in AWAY:
                    api.check(answer)
                    for event in _read(answer.iter_lines()):
                        if "kind" not in event:
                            hint(f"Ended: {event['state']}.")
                            return
                        after = event["id"]
                        yield event
        except httpx.HTTPError:
            hint("The connection broke; again in a moment.")
        time.sleep(PAUSE_SECONDS)


def _read(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of each message of a stream."""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "data":
            try:
                yield json.loads(value)
            except ValueError:
                mend = "Check that --url names a GRAIL Server."
                raise CommandFailed("the stream holds what is no event", mend) from None


def _line(event: dict[str, Any]) -> str:
    about = event["request_id"] or event["job_id"] or event["data"].get("webhook_id") or "-"
    more = " ".join(f"{name}={value}" for name, value in event["data"].items() if value is not None)
    return f"{when(event['at'])}  {event['kind']:<28}  {about}  {more}"
