"""What README and docs/ say about the code is so: settings, commands, links, make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from app.config import Settings
from app.requests.entries import entries, missing_facts
from app.requests.schemas import RequestCreate
from cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NOT_OURS = re.compile(r"(?<![\w.])/(work|root|home|tmp)/")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_setting_is_in_the_table_with_its_default_where_that_is_a_number() -> None:
    rows = [line for line in (ROOT / "docs/operations.md").read_text().splitlines() if line.startswith("| `GRAIL_")]
    documented: dict[str, str] = {}
    for row in rows:
        names, default = (cell.strip() for cell in row.split("|")[1:3])
        found = re.findall(r"`(GRAIL_[A-Z_]+)`", names)
        values = [value.strip() for value in default.split(",")]
        documented |= dict(zip(found, values if len(values) == len(found) else [default] * len(found), strict=True))
    for name, field in Settings.model_fields.items():
        variable = f"GRAIL_{name.upper()}"
        assert variable in documented, f"{variable} is not documented"
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert float(documented[variable]) == field.default, variable


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_commands_that_are_named_exist(path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for first, second in re.findall(r"(?:^|[`(|] ?)grail ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", path.read_text(), re.M):
        assert first in commands, f"grail {first}"
        inside = getattr(commands[first], "commands", None)
        if inside is not None and second:
            assert second in inside, f"grail {first} {second}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_links_and_make_targets_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?\bmake ([a-z]+)`", text)) <= targets
    assert not NOT_OURS.search(text), "a path of one machine"


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    records = sorted(path.name for path in (ROOT / "docs/adr").glob("0*.md"))
    assert records
    for record in records:
        assert f"({record})" in index
        assert "## Drawbacks" in (ROOT / "docs/adr" / record).read_text()


def test_errors_that_operations_explains_exist() -> None:
    code = "".join(path.read_text() for place in ("app", "worker") for path in (ROOT / place).rglob("*.py"))
    table = (ROOT / "docs/operations.md").read_text().split("## What to do when")[1].split("##")[0]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`([a-z]+-[a-z-]+)`", line.split("|")[1])
    }
    assert len(named) >= 5
    assert [name for name in sorted(named) if f'"{name}"' not in code] == []


def test_the_request_in_the_readme_is_one_that_the_api_takes() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    request = RequestCreate.model_validate_json(blocks[0])
    assert not list(missing_facts(entries(request, "somebody")))
