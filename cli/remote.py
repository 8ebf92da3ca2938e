"""The API as commands see it: one client, and problem documents turned into plain words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from cli.failures import CommandFailed
from cli.stack import running_stack

DEFAULT_URL = "http://127.0.0.1:8000"
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
FAULTS_SHOWN = 10

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="GRAIL_URL", help=f"Where the API is; the running service, else {DEFAULT_URL}."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="GRAIL_KEY", show_envvar=True, help="API key; better in the environment than here."),
]


def data_directory() -> Path:
    """Where a service of this directory keeps its data: GRAIL_DATA_DIR, else .grail."""
    return Path(os.environ.get("GRAIL_DATA_DIR") or ".grail")


def base_url(url: str | None) -> str:
    """`url`, else that of the service that runs on this directory's data, else the usual one."""
    running = None if url else running_stack(data_directory())
    return (url or (running.base_url if running else DEFAULT_URL)).rstrip("/")


def at(*parts: str | int) -> str:
    """The path of a resource; each part is quoted, so that a slash in a name stays in it."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


class Remote:
    """An API with a key. Every method raises CommandFailed with what the problem document says."""

    def __init__(self, url: str, key: str) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise CommandFailed(f"{url} is no address of an API", f"Give one like {DEFAULT_URL}.")
        self.url = url
        self.client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(60.0, connect=5.0),
            limits=httpx.Limits(max_keepalive_connections=0),  # nothing stays open between calls
            trust_env=parsed.host not in LOOPBACK,  # a proxy does not know this machine's loopback
        )

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of a GET; parameters that are None are left out."""
        return self.send("GET", path, params={name: value for name, value in query.items() if value is not None}).json()

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON answer of a POST."""
        return self.send("POST", path, json=body).json() if body is not None else self.send("POST", path).json()

    def patch(self, path: str, body: Any) -> Any:
        """The JSON answer of a PATCH."""
        return self.send("PATCH", path, json=body).json()

    def put(self, path: str, body: Any) -> Any:
        """The JSON answer of a PUT."""
        return self.send("PUT", path, json=body).json()

    def delete(self, path: str) -> Any:
        """The JSON answer of a DELETE."""
        return self.send("DELETE", path).json()

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer, when it is a success."""
        try:
            answer = self.client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise self._away(error) from None
        if not answer.is_success:
            raise failure(answer)
        return answer

    def check(self, answer: httpx.Response) -> None:
        """Raises CommandFailed for a streamed answer that is no success."""
        if not answer.is_success:
            answer.read()
            raise failure(answer)

    @contextmanager
    def stream(self, path: str, **query: Any) -> Iterator[httpx.Response]:
        """A GET whose body is read piece by piece."""
        wanted = {name: value for name, value in query.items() if value is not None}
        try:
            with self.client.stream("GET", path, params=wanted) as answer:
                self.check(answer)
                yield answer
        except httpx.HTTPError as error:
            raise self._away(error) from None

    def pages(self, path: str, limit: int, **query: Any) -> list[dict[str, Any]]:
        """Up to `limit` items of a paged list, as many pages as that takes."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(items) < limit:
            page = self.get(path, limit=min(limit - len(items), 200), cursor=cursor, **query)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items

    def _away(self, error: httpx.HTTPError) -> CommandFailed:
        return CommandFailed(
            f"no service answers at {self.url} ({type(error).__name__})",
            "Start one with `grail serve --embedded`, or name another with --url or GRAIL_URL.",
        )


def connect(url: str | None, key: str | None) -> Remote:
    """The API that a command talks to. Raises CommandFailed without a key."""
    if not key:
        raise CommandFailed(
            "no API key is given",
            "Make one with `grail keys create NAME --role ROLE`, then `export GRAIL_KEY=...` (or --key).",
        )
    return Remote(base_url(url), key)


def failure(answer: httpx.Response) -> CommandFailed:
    """What a problem document says: the detail, each field that is wrong, and how to mend it."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "title" not in problem:
        return CommandFailed(
            f"{answer.request.url} answered {answer.status_code} without saying why",
            "Check that --url or GRAIL_URL names a GRAIL Server.",
        )
    detail = str(problem.get("detail") or problem["title"])
    faults = [f for f in problem.get("errors") or [] if isinstance(f, dict)][1 : FAULTS_SHOWN + 1]
    lines = [detail, *(f"  {fault.get('field')}: {fault.get('problem')}" for fault in faults)]
    return CommandFailed("\n".join(lines), str(problem.get("mend") or ""))
