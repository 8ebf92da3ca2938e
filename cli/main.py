"""The `grail` command: groups and commands, and the one border at which their errors become a line for a person."""

from __future__ import annotations

import os
import sys
import traceback

import typer
from pydantic import ValidationError

from app.embedded.errors import EmbeddedError
from app.errors import ServiceError
from cli.adapters import adapters
from cli.backup import backup
from cli.demo import demo
from cli.doctor import doctor, model_path
from cli.envelope import envelope
from cli.events import events
from cli.failures import CommandFailed
from cli.imports import import_file
from cli.jobs import jobs
from cli.keys import keys, migrate
from cli.log import log
from cli.methods import methods
from cli.models import models
from cli.officer import officer
from cli.plan import plan
from cli.requests import requests
from cli.serve import run_api, run_worker, serve
from cli.show import plain
from cli.teach import teach
from cli.verify import verify
from cli.webhooks import webhooks
from grail.model.bundled import ModelMissing

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, which may hold people's texts
    help="GRAIL Server: deletion requests for language models. Start with `grail demo` or `grail serve --embedded`.",
)
RUN, USE = "Run the service", "Use a running service"

app.command(rich_help_panel=RUN)(demo)
app.command(rich_help_panel=RUN)(serve)
app.command("api", rich_help_panel=RUN)(run_api)
app.command("worker", rich_help_panel=RUN)(run_worker)
app.command(rich_help_panel=RUN)(migrate)
app.add_typer(keys, name="keys", rich_help_panel=RUN)
app.add_typer(envelope, name="envelope", rich_help_panel=RUN)
app.add_typer(log, name="log", rich_help_panel=RUN)
app.add_typer(backup, name="backup", rich_help_panel=RUN)
app.add_typer(models, name="models", rich_help_panel=USE)
requests.command("import")(import_file)
app.add_typer(requests, name="requests", rich_help_panel=USE)
app.add_typer(jobs, name="jobs", rich_help_panel=USE)
app.add_typer(adapters, name="adapters", rich_help_panel=USE)
app.add_typer(officer, name="officer", rich_help_panel=USE)
app.add_typer(webhooks, name="webhooks", rich_help_panel=USE)
app.command(rich_help_panel=USE)(events)
app.command(rich_help_panel=USE)(methods)
app.command(rich_help_panel=RUN)(doctor)
app.command("model-path", rich_help_panel=RUN)(model_path)
app.command(rich_help_panel=RUN)(teach)
app.command(rich_help_panel=RUN)(plan)
app.command(rich_help_panel=USE)(verify)


def main() -> None:
    """Run a command. Exit codes: 0 well, 1 it could not be done, 2 it was called wrongly, 130 interrupted."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would run through what commands show
    try:
        app()
    except Exception as error:  # the border of the command line
        if os.environ.get("GRAIL_DEBUG"):
            raise
        detail, mend = explained(error)
        typer.echo(f"grail: {plain(detail)}", err=True)
        if mend:
            typer.echo(f"  How to mend it: {plain(mend)}", err=True)
        sys.exit(1)


def explained(error: Exception) -> tuple[str, str]:
    """What is wrong, and how to mend it."""
    match error:
        case CommandFailed():
            said = error.detail, error.mend
        case ServiceError():
            said = error.detail, error.how_to_mend
        case EmbeddedError() | ModelMissing():
            said = str(error), ""
        case ValidationError():
            said = _settings(error), "Correct the GRAIL_* variables named."
        case OSError():
            said = f"{error.strerror or type(error).__name__}: {error.filename or 'a file or connection'}", ""
        case _:
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = (
                f"an error that was not foreseen: {type(error).__name__} at {place.filename}:{place.lineno}",
                "Run it again with GRAIL_DEBUG=1 for the whole of it (that may show texts).",
            )
    return said


def _settings(error: ValidationError) -> str:
    """Which settings are wrong, without their values."""
    faults = [f"GRAIL_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()]
    return "; ".join(faults)


if __name__ == "__main__":
    main()
