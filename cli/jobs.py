"""`grail jobs`: run a batch, watch it, read its report, decide about its candidate."""

from __future__ import annotations

import time
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.lifecycle import JobState, is_final
from app.trust.verify import Rejected, parse_head, parse_note
from cli.failures import CommandFailed
from cli.remote import Key, Remote, Url, at, connect
from cli.show import AsJson, hint, show_fields, show_json, show_table, when

jobs = typer.Typer(no_args_is_help=True, help="Jobs: the computation of one batch of requests.")

JobId = Annotated[str, typer.Argument(help="The job's id.")]
POLL_SECONDS = 1.0


class Format(StrEnum):
    """What a report can be had as."""

    JSON = "json"
    HTML = "html"
    PDF = "pdf"


@jobs.command("list")
def list_(
    state: Annotated[JobState | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option(help="Of this served model.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Jobs, newest first."""
    items = connect(url, key).pages(at("jobs"), limit, state=state, served_model=model)
    if as_json:
        show_json(items)
        return
    rows = [
        [j["id"], j["served_model"], j["state"], j["stage"], f"{j['progress']:.0%}",
         (j["candidate_adapter"] or {}).get("version"), when(j["created_at"]), j["put_off"], j["waiting_for"]]
        for j in items
    ]  # fmt: skip
    columns = ("ID", "MODEL", "STATE", "STAGE", "DONE", "VERSION", "CREATED", "PUT OFF", "WAITS FOR")
    show_table(columns, rows, empty="There is no such job.")


@jobs.command()
def show(job_id: JobId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """One job: where it stands, its times, and once it is evaluated the gate's checks."""
    job = connect(url, key).get(at("jobs", job_id))
    if as_json:
        show_json(job)
        return
    _show(job)


@jobs.command()
def run(
    model: Annotated[str, typer.Argument(help="The served model.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be batched and what it costs.")] = False,
    include_attention: Annotated[
        bool, typer.Option("--include-attention", help="Queue again what needs attention, with all its tries.")
    ] = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Batch what is pending and run it now, whatever the policy's window says."""
    api = connect(url, key)
    order = {"served_model": model, "dry_run": dry_run, "include_attention": include_attention}
    answer = api.post(at("jobs"), order)
    if as_json:
        show_json(answer)
    elif dry_run:
        _show_preview(answer)
    else:
        hint(f"Queued. Follow it with `grail jobs watch {answer['id']}`.")
        typer.echo(answer["id"])
    if watch_it and not dry_run:
        _watch(api, answer["id"])


@jobs.command()
def watch(job_id: JobId, url: Url = None, key: Key = None) -> None:
    """Follow a job to its end; exit code 0 when it was published, else 1. Ctrl-C ends the watching, not the job."""
    _watch(connect(url, key), job_id)


@jobs.command()
def report(
    job_id: JobId,
    form: Annotated[Format, typer.Option("--format")] = Format.JSON,
    out: Annotated[Path | None, typer.Option(help="File to write; JSON goes to standard output without it.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Fetch a job's evaluation report."""
    if out is None and form is not Format.JSON:
        out = Path(f"report-{job_id}.{form}")
    answer = connect(url, key).send("GET", at("jobs", job_id, "report"), params={"format": str(form)})
    if out is None:
        show_json(answer.json())
        return
    out.write_bytes(answer.content)
    hint(f"Written to {out}.")


@jobs.command()
def bundle(
    job_id: JobId,
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write.")] = Path("report.zip"),
    since: Annotated[
        str | None, typer.Option(help="A checkpoint that you kept (a file), or its size: prove that the log went on.")
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Fetch the bundle of a job's report, for an auditor: `grail verify` reads it, offline."""
    query = {} if since is None else {"since": _size_of(since)}
    answer = connect(url, key).send("GET", at("jobs", job_id, "report.zip"), params=query)
    out.write_bytes(answer.content)
    hint(f"Written to {out}. `grail verify {out} --key KEYS` checks it; keep the checkpoint that is in it.")


def _size_of(since: str) -> int:
    """The size of the log that a checkpoint is of, or the number itself. Raises CommandFailed."""
    if since.isascii() and since.isdigit():
        return int(since)
    try:
        return parse_head(parse_note(Path(since).read_bytes())[0]).size
    except (OSError, Rejected):
        mend = "Give the file `checkpoint` of an earlier bundle, or `grail log checkpoint`'s."
        raise CommandFailed(f"{since} is no checkpoint that can be read", mend) from None


@jobs.command()
def reports(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, by UTC.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, by UTC.")],
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Fetch the reports of all jobs that ended in a period, with an index, as one archive (officer)."""
    days = {"from": f"{first:%Y-%m-%d}", "to": f"{last:%Y-%m-%d}"}
    out = out or Path(f"grail-reports-{days['from']}-to-{days['to']}.zip")
    partial = out.with_name(f".{out.name}.partial")
    try:
        with connect(url, key).stream(at("reports.zip"), **days) as answer, partial.open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    hint(f"Written to {out}.")


@jobs.command()
def cancel(job_id: JobId, url: Url = None, key: Key = None) -> None:
    """Cancel a queued or running job; its requests then need attention."""
    _say(connect(url, key).post(at("jobs", job_id, "cancel")))


@jobs.command()
def approve(job_id: JobId, url: Url = None, key: Key = None) -> None:
    """Approve a candidate (officer); it is published once as many officers have as the policy asks for."""
    _say(connect(url, key).post(at("jobs", job_id, "approve")))


@jobs.command()
def refuse(
    job_id: JobId,
    reason: Annotated[str, typer.Option(help="At least 10 characters; it stays with the job.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Turn down a candidate that awaits approval (officer)."""
    _say(connect(url, key).post(at("jobs", job_id, "refuse"), {"reason": reason}))


def _say(job: dict[str, Any]) -> None:
    missing = job["approvals_missing"]
    left = f"; approvals missing: {missing}, by another officer" if missing else ""
    hint(f"The job is {job['state']}{left}.")


def _watch(api: Remote, job_id: str) -> None:
    """Poll until the job is final or waits for a person. Raises Exit(1) unless it was published."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        task = bar.add_task("waiting", total=1.0)
        while True:
            job = api.get(at("jobs", job_id))
            state = JobState(job["state"])
            steps = f" {job['step']}/{job['steps']}" if job["steps"] else ""
            waits = f", waits for {job['waiting_for']}" if job["waiting_for"] else ""
            bar.update(task, completed=job["progress"], description=f"{state}: {job['stage']}{steps}{waits}")
            if is_final(state) or state is JobState.AWAITING_APPROVAL:
                break
            time.sleep(POLL_SECONDS)
    _show(job)
    if state is not JobState.PUBLISHED:
        raise typer.Exit(1)


def _show(job: dict[str, Any]) -> None:
    verdict: dict[str, Any] | None = job.pop("verdict")
    losses: list[dict[str, float]] = job.pop("losses")
    for side in ("start_adapter", "candidate_adapter"):
        job[side] = (job[side] or {}).get("name")
    job |= {"progress": f"{job['progress']:.0%}", "last_losses": losses[-1] if losses else None}
    show_fields({**job, "request_ids": " ".join(job["request_ids"]) or None})
    if verdict is None:
        return
    rows = [
        [c["scope"], c["name"], c["value"], f"{c['comparison']} {c['bound']:g}", c["ok"], c["n"]]
        for c in verdict["checks"]
    ]
    show_table(("SCOPE", "CHECK", "VALUE", "BOUND", "HELD", "N"), rows, empty="The verdict has no check.")


def _show_preview(preview: dict[str, Any]) -> None:
    estimate = preview.pop("estimate") or {}
    requests = preview.pop("would_batch")
    about = {
        "about_seconds": round(estimate["seconds"], 1), "about_megabytes": round(estimate["bytes"] / 1e6),
    } if estimate else {}  # fmt: skip
    show_fields({**preview, "requests": len(requests), **about})
    for request_id in requests:
        typer.echo(f"  {request_id}")
