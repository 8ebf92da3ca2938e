"""`grail models`: register base models with their adapters, set policies, keep the standing retain set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.failures import CommandFailed
from cli.remote import Key, Url, at, connect
from cli.show import AsJson, hint, show_fields, show_json, show_table, when

models = typer.Typer(no_args_is_help=True, help="Served models: a base model, its adapter versions, a policy.")

Name = Annotated[str, typer.Argument(help="The served model.")]


def as_sent(path: str) -> str:
    """A path that exists here is made absolute, since the API has another working directory; others are the API's."""
    here = Path(path).expanduser()
    return str(here.absolute()) if here.exists() else path


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, `-` for standard input. Raises CommandFailed."""
    text = typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"{path} is not JSON ({error})", "Correct it at the place named.") from None
    if not isinstance(found, dict):
        raise CommandFailed(f"{path} holds no JSON object", "See /openapi.json for what belongs there.")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line. Raises CommandFailed naming the line, never its text."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError:
            item = None
        if not isinstance(item, dict):
            raise CommandFailed(f"{path}, line {number} is not a JSON object", "Put one item on each line.")
        items.append(item)
    return items


def settings_of(pairs: list[str], option: str = "--set") -> dict[str, Any]:
    """`gate.min_rs=90` -> {"gate": {"min_rs": 90}}; values are JSON, or else words. Raises BadParameter."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not (name and sign):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        place = found
        *parents, last = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise typer.BadParameter(f"{parent} is set twice", param_hint=option)
        try:
            place[last] = json.loads(value)
        except ValueError:
            place[last] = value
    return found


@models.command()
def add(
    name: Annotated[str, typer.Argument(help="Lower case, digits and hyphens.")],
    base: Annotated[str, typer.Option(help="Base model directory, as transformers saves it.")],
    adapter: Annotated[str, typer.Option(help="PEFT directory of the LoRA adapter that it is served with.")],
    reference: Annotated[str | None, typer.Option(help="Adapter that never knew what may be asked to go.")] = None,
    template: Annotated[str | None, typer.Option(help="Prompt template with {prompt} once; ChatML by default.")] = None,
    policy: Annotated[Path | None, typer.Option(help="JSON file with the policy.", exists=True)] = None,
    url: Url = None, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Register a base model; the adapter becomes version 1 of the served model."""
    body: dict[str, Any] = {"name": name, "base_model_path": as_sent(base), "adapter_path": as_sent(adapter)}
    body |= {"reference_adapter_path": as_sent(reference)} if reference else {}
    body |= {"prompt_template": template} if template else {}
    body |= {"policy": read_object(policy)} if policy else {}
    _show(connect(url, key).post(at("models"), body), as_json=as_json)


@models.command("list")
def list_(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """All served models."""
    items = connect(url, key).get(at("models"))["items"]
    if as_json:
        show_json(items)
        return
    rows = [
        [m["name"], (m["active_adapter"] or {}).get("version"), m["breaker"]["state"], m["context_tokens"],
         when(m["updated_at"]), m["base_model_path"]]
        for m in items
    ]  # fmt: skip
    empty = "No model is served yet: register one with `grail models add`."
    show_table(("NAME", "VERSION", "BREAKER", "CONTEXT", "CHANGED", "BASE MODEL"), rows, empty=empty)
    for model in items:
        _say_open(model)


@models.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """One served model."""
    _show(connect(url, key).get(at("models", name)), as_json=as_json)


@models.command()
def policy(
    name: Name,
    change: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, such as gate.min_rs=90.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON file with what is to change.", exists=True)] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Print the policy, or change the fields that are named and print what it is then."""
    if file and change:
        raise typer.BadParameter("give --set or --file, not both", param_hint="--set")
    wanted = read_object(file) if file else settings_of(change or [])
    api = connect(url, key)
    path = at("models", name)
    model = api.patch(path, {"policy": wanted}) if wanted else api.get(path)
    show_json(model["policy"])


@models.command("retain-set")
def retain_set(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(help="JSONL file, one item a line; replaces the whole set.", exists=True)
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Print how much stands in the retain set, or replace it. What is being forgotten is left out and counted."""
    api = connect(url, key)
    path = at("models", name, "retain-set")
    show_fields(api.put(path, {"items": read_lines(file)}) if file else api.get(path))


@models.command("close-breaker")
def close_breaker(name: Name, url: Url = None, key: Key = None) -> None:
    """Let jobs of a model start again, once what made them fail is mended (operator)."""
    model = connect(url, key).post(at("models", name, "breaker", "close"))
    hint(f"The breaker of {model['name']} is {model['breaker']['state']}.")


def _say_open(model: dict[str, Any]) -> None:
    """Why a model is left alone, and how to mend it."""
    breaker = model["breaker"]
    if breaker["state"] == "closed":
        return
    reason = breaker["reason"] or {}
    hint(
        f"The breaker of {model['name']} is {breaker['state'].replace('_', ' ')} since {when(breaker['opened_at'])}: "
        f"{reason.get('title', 'its jobs failed')}. {reason.get('mend', '')}\n"
        f"  Then: grail models close-breaker {model['name']} (by itself one job tries at "
        f"{when(breaker['tries_again_at'])})."
    )


def _show(model: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(model)
        return
    _say_open(model)
    active = model.pop("active_adapter") or {}
    show_fields({**model, "active_adapter": active.get("name")})
    hint(f"Change its policy with `grail models policy {model['name']} --set NAME=VALUE`.")
