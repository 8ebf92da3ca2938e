"""`grail webhooks`: where to tell what happens, and what became of each telling."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.remote import Key, Url, at, connect
from cli.show import AsJson, hint, show_json, show_table, when

webhooks = typer.Typer(no_args_is_help=True, help="Webhooks: signed messages about requests and jobs.")

WebhookId = Annotated[str, typer.Argument(help="The webhook's id.")]


class Outcome(StrEnum):
    """What a delivery can have come to."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@webhooks.command("list")
def list_(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """The webhooks of this key; an admin sees all."""
    items = connect(url, key).get(at("webhooks"))["items"]
    if as_json:
        show_json(items)
        return
    rows = [[w["id"], w["url"], " ".join(w["kinds"]) or "all", _health(w), when(w["created_at"])] for w in items]
    show_table(("ID", "URL", "KINDS", "STATE", "CREATED"), rows, empty="There is no webhook.")


@webhooks.command()
def add(
    address: Annotated[str, typer.Argument(help="https address that takes the messages.")],
    kind: Annotated[list[str] | None, typer.Option(help="Of this kind, as request.published or job.*; all without.")]
    = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Be told from now on. Prints the secret that verifies signatures: it is shown this once."""
    made = connect(url, key).post(at("webhooks"), {"url": address, "kinds": kind or []})
    if as_json:
        show_json(made)
        return
    hint(f"Made as {made['id']}. Its secret, shown this once:")
    typer.echo(made["secret"])


@webhooks.command()
def remove(webhook_id: WebhookId, url: Url = None, key: Key = None) -> None:
    """Remove a webhook; what was not delivered to it never will be."""
    connect(url, key).send("DELETE", at("webhooks", webhook_id))
    hint("The webhook is gone.")


@webhooks.command()
def rotate(webhook_id: WebhookId, url: Url = None, key: Key = None) -> None:
    """Change the secret; for a day the old one signs too. Prints the new one."""
    made = connect(url, key).post(at("webhooks", webhook_id, "rotate-secret"))
    hint(f"The old secret signs too until {when(made['old_secret_until'])}. The new one, shown this once:")
    typer.echo(made["secret"])


@webhooks.command()
def enable(webhook_id: WebhookId, url: Url = None, key: Key = None) -> None:
    """Send again to a webhook that was disabled, what has happened meanwhile included."""
    connect(url, key).post(at("webhooks", webhook_id, "enable"))
    hint("Enabled.")


@webhooks.command("test")
def test_(webhook_id: WebhookId, url: Url = None, key: Key = None) -> None:
    """Send a test message."""
    made = connect(url, key).post(at("webhooks", webhook_id, "test"))
    hint(f"On its way as {made['message_id']}: see `grail webhooks deliveries {webhook_id}`.")


@webhooks.command()
def deliveries(
    webhook_id: WebhookId,
    state: Annotated[Outcome | None, typer.Option(help="dead: given up, may be replayed.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """What became of each event, newest first."""
    items = connect(url, key).pages(at("webhooks", webhook_id, "deliveries"), limit, state=state)
    if as_json:
        show_json(items)
        return
    rows = [
        [d["id"], d["kind"], d["state"], d["attempts"], d["last_status"] or d["last_error"], when(d["next_at"]),
         when(d["created_at"])]
        for d in items
    ]  # fmt: skip
    headings = ("ID", "KIND", "STATE", "TRIES", "LAST", "NEXT", "CREATED")
    show_table(headings, rows, empty="There is no such delivery.")


@webhooks.command()
def replay(
    webhook_id: WebhookId,
    delivery_id: Annotated[str | None, typer.Argument(help="The delivery's id; with --dead not needed.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that were given up.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Deliver once more, with all tries, under the same webhook-id."""
    if (delivery_id is None) is not dead:
        raise typer.BadParameter("give the id of a delivery, or --dead")
    api = connect(url, key)
    path = at("webhooks", webhook_id, "deliveries")
    ids = [d["id"] for d in api.pages(path, 10_000, state="dead")] if dead else [delivery_id]
    for id_ in ids:
        api.post(at("webhooks", webhook_id, "deliveries", str(id_), "replay"))
    hint(f"{len(ids)} on their way again.")


def _health(webhook: dict[str, Any]) -> str:
    if webhook["disabled_at"]:
        return f"disabled {when(webhook['disabled_at'])}"
    return f"fails since {when(webhook['failing_since'])}" if webhook["failing_since"] else "well"
