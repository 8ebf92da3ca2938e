"""The API alone: for containers (`grail api`), and as a child that inherits its listening socket (`cli.stack`)."""

from __future__ import annotations

import socket
import sys

GRACE_SECONDS = 3
"""How long answers under way may take once the server is told to stop."""


def serve_api(*, host: str = "127.0.0.1", port: int = 8000, listening: socket.socket | None = None) -> None:
    """Serve until a signal ends it: on `listening`, or on host and port. Exits with 1 when it can not start."""
    import uvicorn

    config = uvicorn.Config(
        "app.main:create_app",
        factory=True,
        host=host,
        port=port,
        log_config=None,  # app.logs writes JSON lines for all loggers
        access_log=False,  # request lines hold ids of people's requests; app.limits gives each answer an id of its own
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listening] if listening is not None else None)
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":  # python -m cli.api DESCRIPTOR: the socket's family is read from the descriptor itself
    serve_api(listening=socket.socket(fileno=int(sys.argv[1])))
