"""A TCP proxy in front of Postgres that cuts a connection in the middle of a commit, when it is told to.

`before`: the commit never reaches the server. `after`: the server has answered it, and the answer never reaches the
client, which can not tell the one from the other.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

COMMIT = b"COMMIT\x00"
APPLICATION = b"application_name\x00"
API = "grail"
"""The API's connections bear no other name; those of workers go on after it."""


class Cutter:
    """Listens on a port of its own. A context manager."""

    def __init__(self, server: Path) -> None:
        self.server = server
        self.cuts: list[tuple[str, str]] = []
        self._armed: list[tuple[str, str]] = []
        self._guard = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listening.getsockname()[1]

    def __enter__(self) -> Cutter:
        threading.Thread(target=self._accept, name="cutter", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def url(self) -> str:
        """SQLAlchemy's URL of the database behind it."""
        return f"postgresql+psycopg://grail@127.0.0.1:{self.port}/grail?sslmode=disable&gssencmode=disable"

    def arm(self, when: str, application: str = "") -> None:
        """Cut the next commit (`before` or `after`) of a connection whose application's name holds that word."""
        with self._guard:
            self._armed.append((when, application))

    def disarm(self) -> None:
        """What was not cut yet is let through."""
        with self._guard:
            self._armed.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self.server))
        except OSError:
            _end(client)
            _end(server)
            return
        state = {"application": "", "cut": ""}
        pump = threading.Thread(target=self._answers, args=(server, client, state), daemon=True)
        pump.start()
        with suppress(OSError):
            self._words(client, server, state)
        _end(client)
        _end(server)

    def _words(self, client: socket.socket, server: socket.socket, state: dict[str, str]) -> None:
        """From the client to the server."""
        while data := client.recv(65536):
            if APPLICATION in data and not state["application"]:
                state["application"] = data.split(APPLICATION)[1].split(b"\0")[0].decode(errors="replace")
            if data.endswith(COMMIT) and (when := self._takes(state["application"])):
                if when == "before":
                    return
                state["cut"] = when
            server.sendall(data)

    def _answers(self, server: socket.socket, client: socket.socket, state: dict[str, str]) -> None:
        """From the server to the client; the answer to a commit that is cut is swallowed."""
        with suppress(OSError):
            while data := server.recv(65536):
                if state["cut"]:
                    break
                client.sendall(data)
        _end(client)
        _end(server)

    def _takes(self, application: str) -> str:
        with self._guard:
            for one in self._armed:
                if one[1] in application and (one[1] != API or application == API):
                    self._armed.remove(one)
                    self.cuts.append((one[0], application))
                    return one[0]
        return ""


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
