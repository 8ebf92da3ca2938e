"""What the demo shows: words, tables and a live bar. Texts from outside are never read as markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from cli.facts import Fact
from cli.stack import Stack

if TYPE_CHECKING:
    from cli.demo import Cast

STAGES = {
    "queued": "waiting for the worker",
    "load": "loading the model",
    "original": "measuring the model as it is",
    "reference": "measuring the model that never knew (adapter off)",
    "localise": "finding where the knowledge sits",
    "unlearn": "unlearning",
    "candidate": "measuring the candidate",
    "write": "writing the new version",
    "report": "writing the report",
}
ROWS = (
    ("forget", "success", "US  requested facts", "{:.1f}"),
    ("forget", "calibrated_success", "cUS requested facts", "{:.1f}"),
    ("forget_paraphrase", "calibrated_success", "cUS in other words", "{:.1f}"),
    ("retain", "success", "RS  facts that stay", "{:.1f}"),
    ("retain_paraphrase", "success", "RS  in other words", "{:.1f}"),
    ("forget", "perplexity", "PPL of requested facts", "{:,.1f}"),
    ("forget", "rouge_l_free", "ROUGE-L requested, free answers", "{:.1f}"),
    ("retain", "rouge_l_free", "ROUGE-L retained, free answers", "{:.1f}"),
    ("forget", "fact_in_answer", "% of answers that give the fact away", "{:.1f}"),
    ("retain", "fact_in_answer", "% of answers that hold the retained fact", "{:.1f}"),
)
MEANS = {"hs": "HS  harmonic mean of US and RS", "chs": "cHS harmonic mean of cUS and RS"}
WHENS = ("before", "after", "reference")


class View:
    """Writes to one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def title(self, people: int, works: int) -> None:
        self._head("GRAIL Server")
        self.console.print(
            "SmolLM2-135M was taught facts about invented people and books. "
            f"{_counted(people, 'person', 'people')} and {_counted(works, 'rights holder', 'rights holders')} now ask "
            "that some of them be forgotten. "
            "Everything below happens over HTTP, on Postgres and Celery."
        )

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """A spinner while something short goes on."""
        with self.console.status(f"{what} ..."):
            yield

    def serving(self, stack: Stack) -> None:
        for note in stack.notes:
            self.console.print(Text(f"Note: {note}", style="dim"))
        self.console.print(Text(f"The API listens on {stack.base_url}; logs lie in {stack.logs}", style="dim"))

    def registered(self, model: str, standing: int) -> None:
        self._head("1. The served model")
        self.console.print(
            f"POST /v1/models: [bold]{model}[/] with its adapter as version 1; "
            f"PUT /v1/models/{model}/retain-set: {standing} facts about other people and books stand to be retained."
        )

    def before(self, cast: Cast, before: Mapping[str, str]) -> None:
        self._head("2. What the model knows")
        for segment, title in (("forget", "to be forgotten"), ("retain", "to stay")):
            table = Table("Question", f"Answer of version 1 ({title})", box=box.SIMPLE_HEAD, expand=True)
            for fact in cast.questions(segment)[:4]:
                table.add_row(Text(fact.prompt), _answer(before[fact.prompt], fact))
            self.console.print(table)

    def submitted(self, subject: str, request: Mapping[str, Any]) -> None:
        if request["client_reference"].endswith("-01"):
            self._head("3. The requests")
        items = f"{request['forget_items']} to forget, {request['retain_items']} to retain, {request['probes']} probes"
        self.console.print(
            Text.assemble(
                ("POST /v1/requests  202  ", "green"), f"{request['domain']:<9} ", (f"{subject:<26} ", "bold"), items,
                (f"; due {request['due_at'][:10]}", "dim"),
            )
        )  # fmt: skip

    def preview(self, preview: Mapping[str, Any]) -> None:
        self._head("4. The job")
        cost = preview["estimate"]
        guess = "" if cost is None else f"; about {cost['seconds'] / 60:.0f} min, {cost['bytes'] / 1e9:.1f} GB expected"
        self.console.print(
            f"Dry run: {len(preview['would_batch'])} requests of both domains in one batch, {preview['forget_items']} "
            f"facts to forget, {preview['retain_items']} to retain{guess}."
        )

    @contextmanager
    def progress(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A live bar; the function yielded is told the job as it stands."""
        columns = (
            TextColumn("{task.description:<50}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as bars:
            task = bars.add_task("waiting for the worker", total=1.0, losses="")

            def show(job: Mapping[str, Any]) -> None:
                step = f" (step {job['step']} of {job['steps']})" if job["stage"] == "unlearn" and job["steps"] else ""
                last = job["losses"][-1] if job["losses"] and job["stage"] == "unlearn" else {}
                losses = "  ".join(f"{name} {value:.2f}" for name, value in last.items() if name != "step")
                said = STAGES.get(job["stage"], job["stage"]) + step
                bars.update(task, completed=job["progress"], description=said, losses=losses)

            yield show

    def refused(self, job: Mapping[str, Any], report: Mapping[str, Any], place: Path) -> None:
        self._head(f"The candidate was not published ({job['state']})")
        for check in report["gate"]["checks"]:
            if not check["ok"]:
                said = f"  {check['scope']}: {check['name']} is {check['value']}, bound {check['bound']}"
                self.console.print(Text(said))
        self.console.print(Text(f"Its requests go back to the queue; the report: {place / 'report.html'}"))

    def after(self, cast: Cast, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        self._head("5. The same questions again")
        for segment, title in (("forget", "Forgotten"), ("retain", "Retained")):
            table = Table(f"{title}: question", "Version 1", "New version", box=box.SIMPLE_HEAD, expand=True)
            for fact in cast.questions(segment):
                table.add_row(Text(fact.prompt), _answer(before[fact.prompt], fact), _answer(after[fact.prompt], fact))
            self.console.print(table)
        self.console.print(Text("Underlined: the words that give the fact away.", style="dim"))

    def metrics(self, report: Mapping[str, Any]) -> None:
        self._head("6. In numbers")
        for domain in report["metrics"]:
            table = Table(Column(domain), box=box.SIMPLE_HEAD)
            for when in WHENS:
                table.add_column(when, justify="right")
            for group, measure, title, form in ROWS:
                table.add_row(title, *(_cell(report, domain, group, measure, when, form) for when in WHENS))
            for name, title in MEANS.items():
                cells = [_plain(report["summary"][domain][when][name], "{:.1f}") for when in WHENS]
                table.add_row(title, *cells)
            self.console.print(table)
        self.console.print(
            Text(
                "reference: the model that never knew (adapter off). cUS = 100 * min(1, US / US of the reference): "
                "100 means no better than a model that never knew.",
                style="dim",
            )
        )

    def where(self, job: Mapping[str, Any], report: Mapping[str, Any], place: Path) -> None:
        checks = report["gate"]["checks"]
        self._head("7. The evidence")
        self.console.print(
            f"{sum(check['ok'] for check in checks)} of {len(checks)} gate checks held; published: "
            f"[bold]{job['candidate_adapter']['name']}[/]"
        )
        for kind in ("html", "pdf", "json"):
            self.console.print(Text(f"  {place / f'report.{kind}'}"), soft_wrap=True)

    def took(self, seconds: float) -> None:
        self.console.print(f"\nThe demo took {int(seconds // 60)} min {seconds % 60:.0f} s.")

    def kept(self, stack: Stack, made: Mapping[str, str], model: str) -> None:
        self._head("The service stays up until Ctrl-C. Try, in another terminal:")
        lines = [
            f"export URL={stack.base_url} KEY={made['operator']} OFFICER={made['officer']}",
            'curl -s -H "Authorization: Bearer $KEY" $URL/v1/requests?limit=3',
            'curl -s -H "Authorization: Bearer $KEY" $URL/v1/jobs',
            f'curl -s -H "Authorization: Bearer $KEY" $URL/v1/models/{model}/adapters',
            f'curl -s -H "Authorization: Bearer $KEY" $URL/v1/models/{model}/adapters/2/download | tar t',
            'JOB=$(curl -s -H "Authorization: Bearer $KEY" $URL/v1/jobs | python3 -c '
            "'import json, sys; print(json.load(sys.stdin)[\"items\"][0][\"id\"])')",
            'curl -s -H "Authorization: Bearer $OFFICER" "$URL/v1/jobs/$JOB/report?format=pdf" -o report.pdf',
        ]
        for line in lines:
            self.console.print(Text(line), soft_wrap=True)

    def _head(self, text: str) -> None:
        self.console.print()
        self.console.rule(Text(text, style="bold"), align="left")


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _answer(said: str, fact: Fact) -> Text:
    """An answer, shortened, its telling words underlined."""
    text = Text(said if len(said) <= 160 else f"{said[:157]}...")
    text.highlight_words([fact.fact], style="bold underline", case_sensitive=False)
    return text


def _cell(report: Mapping[str, Any], domain: str, group: str, measure: str, when: str, form: str) -> str:
    measured = report["metrics"][domain].get(group, {}).get(measure, {}).get(when)
    if measured is None:
        return "-"
    return measured["text"] or _plain(measured["value"], form)


def _plain(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
