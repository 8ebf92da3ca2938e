"""The only Celery client of the service. A message is a doorbell that carries an id; the job row is the truth.

`enqueue` notes a message in the session; app.db sends it after the commit and drops it on rollback. (SQLAlchemy's own
`after_commit` event also fires when a savepoint is released, so it is not used.) When the broker is away after the
commit, that is logged and nothing is lost: the sweep sends again.
"""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.orm import Session

from app.config import load_settings
from app.errors import Unavailable

log = structlog.get_logger(__name__)

NOTED = "grail.messages"
GPU, CONTROL = "gpu", "control"
SEND_SECONDS = 2.0
"""A caller whose change is stored waits no longer than this for its doorbell: the sweep rings anyway."""
AT_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1}
QUEUES: dict[str, dict[str, str]] = {
    "grail.run_job": {"queue": GPU},
    "grail.plan_batches": {"queue": CONTROL},
    "grail.publish_job": {"queue": CONTROL},
    "grail.run_import": {"queue": CONTROL},
    "grail.sweep": {"queue": CONTROL},
    "grail.deliver": {"queue": CONTROL},
    "grail.number_leaves": {"queue": CONTROL},
    "grail.issue_checkpoint": {"queue": CONTROL},
    "grail.bundle_reports": {"queue": CONTROL},
    "grail.remove_orphans": {"queue": CONTROL},
}


def broker_options(url: str) -> dict[str, Any]:
    """Transport options for client and worker. redis-py 8 has a 5 s default socket timeout, which would cut a worker's
    blocking reads: it is set here, longer than any of them."""
    options: dict[str, Any] = {"socket_timeout": 30.0, "visibility_timeout": 3600}
    if not url.startswith("redis+socket"):  # a unix socket connects at once or not at all
        options["socket_connect_timeout"] = 3.0
    return options


@lru_cache(maxsize=4)
def client(url: str) -> Celery:
    """A Celery client that fails fast, also where the broker takes a connection and says nothing: it only writes."""
    app = Celery("grail", broker=url)
    app.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        task_routes=QUEUES,
        task_default_queue=CONTROL,
        broker_transport_options={**broker_options(url), "socket_timeout": SEND_SECONDS, **AT_ONCE},
    )
    return app


def enqueue(session: Session, task: str, *ids: uuid.UUID | str) -> None:
    """Note a message; it is sent once the session's transaction is committed. Raises KeyError for an unknown task."""
    QUEUES[task]
    noted = session.info.setdefault(NOTED, [])
    message = (task, [str(value) for value in ids])
    if message not in noted:
        noted.append(message)


def messages(session: Session) -> list[tuple[str, list[str]]]:
    """What is noted so far, to go back to when a part of the transaction is undone."""
    return list(session.info.get(NOTED, []))


def restore_messages(session: Session, noted: list[tuple[str, list[str]]]) -> None:
    """Forget what was noted since."""
    session.info[NOTED] = noted


def send_noted(session: Session) -> None:
    """Send what was noted. Never raises for an absent broker."""
    for task, ids in session.info.pop(NOTED, []):
        send(task, *ids)


def send(task: str, *ids: str) -> bool:
    """Send one message now; False (and a log line) when the broker is away."""
    try:
        client(load_settings().broker_url).send_task(task, args=list(ids), retry=False)
    except (BrokerError, OSError) as error:
        log.warning("broker_away", task=task, ids=list(ids), kind=type(error).__name__)
        return False
    return True


def ping(url: str, timeout_seconds: float) -> None:
    """Raises Unavailable when the broker does not answer."""
    try:
        with client(url).connection_for_write(connect_timeout=timeout_seconds) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=timeout_seconds)
    except (BrokerError, OSError):
        raise Unavailable("the broker does not answer") from None
