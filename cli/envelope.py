"""`grail envelope`: the keys of content, straight on the key store."""

from __future__ import annotations

import typer

from app.config import load_settings
from app.envelope.kms import load_keys
from app.envelope.service import open_store, unopened_store
from cli.show import AsJson, hint, show_json

envelope = typer.Typer(no_args_is_help=True, help="The keys of content (on the key store, without the API).")


@envelope.command()
def status(as_json: AsJson = False) -> None:
    """Carry out the list of destroyed keys, and say how many keys each version of the key-encryption key wraps."""
    settings = load_settings()
    keys, store = load_keys(settings), open_store(settings)
    found, destroyed = store.versions(), store.tombstones.records()
    store.dispose()
    if as_json:
        show_json({"current": keys.current, "set": sorted(keys.versions), "wraps": found, "destroyed": destroyed})
        return
    for version in sorted({*keys.versions, *found}):
        said = "wraps" if version == keys.current else "may be taken out" if version not in found else "to be rewrapped"
        known = "" if version in keys.versions else ", NOT SET"
        typer.echo(f"version {version}: {found.get(version, 0)} keys ({said}{known})")
    typer.echo(f"{destroyed} records in the list of destroyed keys")


@envelope.command()
def rewrap() -> None:
    """Wrap every key of content by the current version; content is not touched. May be broken off and repeated."""
    settings = load_settings()
    store = open_store(settings)
    done = sum(store.rewrap(load_keys(settings)))
    store.dispose()
    typer.echo(f"{done} keys wrapped anew")
    hint("`grail envelope status` says which versions wrap nothing any more.")


@envelope.command()
def export() -> None:
    """Write the store's own tombstones into the list of destroyed keys: where that one was lost."""
    store = unopened_store(load_settings())
    done = store.export()
    store.dispose()
    typer.echo(f"{done} records written")
