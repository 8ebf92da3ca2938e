"""`grail demo`: the whole path on a real model, as its users see it: HTTP, a worker, a new version, the same questions.

Each run registers a served model of its own (demo, demo-2, ...), so that no run disturbs what an earlier one made; the
scores of the starting adapter are kept under digests, so that a later run need not measure them again.
"""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app.auth import Role
from app.db import Database, transaction
from app.keys.service import create_key
from cli.demo_view import View
from cli.facts import EXAMPLES, Fact, demo_facts, subjects
from cli.failures import CommandFailed
from cli.remote import Remote, at, data_directory
from cli.serve import model_roots, stopped_by_signals
from cli.stack import Stack

ADAPTER = EXAMPLES / "adapter"
LEGAL_BASIS = {"privacy": "GDPR Art. 17(1)(b)", "copyright": "Notice of the rights holder"}
FINAL = {"published", "rejected", "failed", "cancelled", "awaiting_approval"}
FORMATS = ("json", "html", "pdf")
POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Cast:
    """Who and what the demo is about: the facts of the chosen subjects, and everybody else's that are to stay."""

    chosen: dict[str, list[Fact]]
    standing: list[Fact]

    def all(self, segment: str) -> list[Fact]:
        """Facts of the chosen subjects."""
        return [fact for facts in self.chosen.values() for fact in facts if fact.segment == segment]

    def questions(self, segment: str) -> list[Fact]:
        """One of each subject, each time of another kind: what is asked before and after."""
        found = []
        for place, facts in enumerate(self.chosen.values()):
            own = [fact for fact in facts if fact.segment == segment]
            found.append(own[place % len(own)])
        return found


@dataclass(slots=True)
class Run:
    """One run against a running service."""

    remote: Mapping[str, Remote]
    view: View
    cast: Cast
    model: str
    place: Path
    base: Path
    requests: list[dict[str, Any]] = field(default_factory=list)

    def go(self) -> dict[str, Any]:
        """Everything, in order; the report."""
        self.register()
        before = self.ask(1)
        self.view.before(self.cast, before)
        self.submit()
        job = self.job()
        report = self.keep_reports(job)
        if job["state"] != "published":
            self.view.refused(job, report, self.place)
            raise CommandFailed(f"the job ended as {job['state']}", f"Read {self.place / 'report.html'}.")
        after = self.ask(job["candidate_adapter"]["version"])
        self.view.after(self.cast, before, after)
        self.view.metrics(report)
        self.view.where(job, report, self.place)
        return report

    def register(self) -> None:
        """The served model with its starting adapter, and what stands to be retained."""
        operator = self.remote["operator"]
        operator.post(
            at("models"),
            {"name": self.model, "base_model_path": str(self.base), "adapter_path": str(ADAPTER)},
        )
        items = [{"domain": fact.domain, **fact.as_item(), "probes": []} for fact in self.cast.standing]
        result = operator.put(at("models", self.model, "retain-set"), {"items": items})
        self.view.registered(self.model, result["added"])

    def submit(self) -> None:
        """One deletion request a subject, over HTTP."""
        for subject, facts in self.cast.chosen.items():
            body = {
                "served_model": self.model,
                "domain": facts[0].domain,
                "forget": [fact.as_item() for fact in facts if fact.segment == "forget"],
                "retain": [fact.as_item() for fact in facts if fact.segment == "retain"],
                "legal_basis": LEGAL_BASIS[facts[0].domain],
                "client_reference": f"{self.model}-{len(self.requests) + 1:02d}",
            }
            request = self.remote["requester"].post(at("requests"), body)
            self.requests.append(request)
            self.view.submitted(subject, request)

    def job(self) -> dict[str, Any]:
        """The job, from a dry run to its end."""
        operator = self.remote["operator"]
        self.view.preview(operator.post(at("jobs"), {"served_model": self.model, "dry_run": True}))
        job: dict[str, Any] = operator.post(at("jobs"), {"served_model": self.model})
        with self.view.progress() as show:
            while job["state"] not in FINAL:
                time.sleep(POLL_SECONDS)
                job = operator.get(at("jobs", job["id"]))
                show(job)
        return job

    def ask(self, version: int) -> dict[str, str]:
        """Answers to the demo's questions under a version, downloaded as anybody would and loaded with PEFT."""
        with self.view.busy(f"asking version {version}"):
            adapter = self.download(version)
            return answers(self.base, adapter, [*self.cast.questions("forget"), *self.cast.questions("retain")])

    def download(self, version: int) -> Path:
        """The version's PEFT directory."""
        archive = self.remote["operator"].send("GET", at("models", self.model, "adapters", version, "download"))
        with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
            name = tar.getnames()[0].split("/")[0]
            tar.extractall(self.place, filter="data")
        return self.place / name

    def keep_reports(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Every format beside each other; the JSON document."""
        if job["report"] is None:
            raise CommandFailed(f"the job ended as {job['state']}: {(job['error'] or {}).get('detail')}")
        officer = self.remote["officer"]
        for kind in FORMATS:
            content = officer.send("GET", job["report"], params={"format": kind}).content
            (self.place / f"report.{kind}").write_bytes(content)
        document: dict[str, Any] = officer.get(job["report"])
        return document


def answers(base: Path, adapter: Path, asked: list[Fact]) -> dict[str, str]:
    """Free greedy answers, by question."""
    from grail.evaluate import measure
    from grail.model.load import load_model
    from grail.types import Example, Segment
    from worker.device import free_device

    rows = [Example(f.prompt, f.domain, Segment.RETAIN, f.subject, f.prompt, f.completion) for f in asked]
    scores = measure(load_model(base, adapter), rows, generate=True)
    free_device()  # the worker needs it more
    return {prompt: score.answer or "" for prompt, score in scores.items()}


def cast_of(people: int, works: int) -> Cast:
    """The first so many people and works; what stays of all others stands to be retained."""
    facts = demo_facts()
    names = [*subjects(facts, "privacy")[:people], *subjects(facts, "copyright")[:works]]
    chosen = {name: [fact for fact in facts if fact.subject == name] for name in names}
    return Cast(chosen, [fact for fact in facts if fact.subject not in chosen and fact.segment == "retain"])


def make_keys(database_url: str, name: str) -> dict[str, str]:
    """A key of each role that the demo plays, as an administrator makes them."""
    db = Database(database_url, pool_size=1)
    with transaction(db) as session:
        made = {str(role): create_key(session, name, role)[1] for role in (Role.REQUESTER, Role.OPERATOR, Role.OFFICER)}
    db.dispose()
    return made


def fresh_name(operator: Remote) -> str:
    """demo, or demo-2, demo-3, ... when earlier runs left theirs."""
    taken = {model["name"] for model in operator.get(at("models"))["items"]}
    names = (("demo" if number == 1 else f"demo-{number}") for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


@contextmanager
def running(data_dir: Path, port: int, view: View) -> Iterator[Stack]:
    """The service, started for the demo."""
    stack = Stack(model_roots(), data_dir=data_dir, port=port)
    with view.busy("starting Postgres, Valkey, the API and the workers"):
        stack.start()
    try:
        yield stack
    finally:
        stack.stop()


def demo(
    people: Annotated[int, typer.Option(min=1, max=12, help="People whose facts are to be forgotten.")] = 6,
    works: Annotated[int, typer.Option(min=1, max=12, help="Works whose passages are to be forgotten.")] = 6,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running and show calls that work.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Data and logs; .grail here.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Write what is shown as an SVG picture, too.")] = None,
) -> None:
    """Ask a real model, request deletion over HTTP, unlearn, publish, ask again."""
    from grail.model.bundled import bundled_model

    start = time.monotonic()
    view = View(Console(record=picture is not None, width=118 if picture else None, highlight=False))
    stopped_by_signals()
    try:
        view.title(people, works)
        with view.busy("preparing the language model (once, about 20 seconds)"):
            base = bundled_model()
        with running(data_dir or data_directory(), port, view) as stack:
            made = make_keys(stack.database_url, "demo")
            remote = {role: Remote(stack.base_url, key) for role, key in made.items()}
            name = fresh_name(remote["operator"])
            place = stack.data_dir / "demo" / name
            place.mkdir(parents=True, exist_ok=True)
            view.serving(stack)
            Run(remote, view, cast_of(people, works), name, place, base).go()
            view.took(time.monotonic() - start)
            if picture is not None:
                picture.write_text(view.console.export_svg(title="make demo"), encoding="utf-8")
            if keep:
                view.kept(stack, made, name)
                threading.Event().wait()
    except KeyboardInterrupt:
        view.console.print("Stopped; nothing is left running.")
        raise typer.Exit(0 if keep else 130) from None
