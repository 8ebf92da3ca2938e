"""`grail verify`: the stand-alone verifier, as a command. Needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.trust import verify as standalone


def verify(
    bundle: Annotated[Path, typer.Argument(help="The report.zip.")],
    key: Annotated[str, typer.Option(help="A file of verifier keys, or one key: name+hash+base64.")],
    adapter: Annotated[Path | None, typer.Option(help="Directory of the new adapter version.")] = None,
    since: Annotated[Path | None, typer.Option(help="An earlier checkpoint of the log, which you kept.")] = None,
    allow_unsafe_key: Annotated[bool, typer.Option(help="Accept a development key.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Check a report's bundle offline: signature, figures, adapter, log. docs/verify.md says what each answer means."""
    given = [str(bundle), f"--key={key}"]
    given += [f"--adapter={adapter}"] * (adapter is not None) + [f"--since={since}"] * (since is not None)
    given += ["--allow-unsafe-key"] * allow_unsafe_key + ["--json"] * as_json
    raise typer.Exit(standalone.main(given))
