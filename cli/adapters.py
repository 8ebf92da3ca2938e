"""`grail adapters`: list versions, download one with its digests checked, move the alias."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Annotated

import httpx
import typer

from app.adapters.files import MANIFEST, VersionDamaged, verify_version
from app.trust.keys import KeyUnusable
from app.trust.model_signature import SIGNATURE, NotSigned, check_model
from cli.failures import CommandFailed
from cli.remote import Key, Url, at, connect
from cli.show import AsJson, hint, show_fields, show_json, show_table, when

adapters = typer.Typer(no_args_is_help=True, help="Adapter versions of a served model.")

Model = Annotated[str, typer.Argument(help="The served model.")]
Version = Annotated[int, typer.Argument(help="The version's number.", min=1)]


@adapters.command("list")
def list_(
    model: Model,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Versions, newest first."""
    items = connect(url, key).pages(at("models", model, "adapters"), limit)
    if as_json:
        show_json(items)
        return
    rows = [
        [a["version"], a["name"], a["state"], a["active"], a["parent"], when(a["published_at"]), a["job_id"],
         when(a["weights_destroyed_at"])]
        for a in items
    ]  # fmt: skip
    columns = ("VERSION", "NAME", "STATE", "ACTIVE", "PARENT", "PUBLISHED", "JOB", "WEIGHTS DESTROYED")
    show_table(columns, rows, empty="There is no version.")


@adapters.command()
def download(
    model: Model,
    version: Version,
    out: Annotated[Path, typer.Option(help="Directory in which the version's own directory is made.")] = Path("."),
    reason: Annotated[
        str | None, typer.Option(help="Needed for a superseded version (officer): at least 10 characters.")
    ] = None,
    model_key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) that the version's model.sig has to verify with.")
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Download a version as a PEFT directory and check every file against its manifest, and with --model-key against
    its signature. Leaves a receipt."""
    out.mkdir(parents=True, exist_ok=True)
    with connect(url, key).stream(at("models", model, "adapters", version, "download"), reason=reason) as answer:
        name = answer.headers["content-disposition"].partition('filename="')[2].removesuffix('.tar"')
        if not name or Path(name).name != name:
            raise CommandFailed("the answer names no file", "Check that --url names a GRAIL Server.")
        if (out / name).exists():
            raise CommandFailed(f"{out / name} is there already", "Versions never change: use it, or remove it first.")
        partial = out / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _unpack(answer, partial, name)
            if model_key is not None:
                _check_signature(partial / name, model_key)
            (partial / name).rename(out / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    hint(f"Every file has the digest that the manifest names. Load it with PeftModel.from_pretrained(base, {name!r}).")
    typer.echo(str(out / name))


def _unpack(answer: httpx.Response, partial: Path, name: str) -> None:
    """Unpack the stream below `partial` and verify it. Raises CommandFailed."""
    partial.mkdir()
    archive = partial / "archive.tar"
    with archive.open("wb") as file:
        for chunk in answer.iter_bytes():
            file.write(chunk)
    again = "Download it again; if it stays, look for a proxy that changes it."
    try:
        with tarfile.open(archive, mode="r:") as tar:  # uncompressed: it unpacks to no more than arrived
            tar.extractall(partial, filter="data")
        manifest = json.loads((partial / name / MANIFEST).read_text(encoding="utf-8"))
        verify_version(partial / name, manifest)
    except (tarfile.TarError, ValueError, KeyError, FileNotFoundError):
        raise CommandFailed("what arrived is not a whole adapter version", again) from None
    except VersionDamaged as error:
        raise CommandFailed(error.detail, again) from None


def _check_signature(directory: Path, model_key: Path) -> None:
    """Raises CommandFailed where a version is not signed, or not by this key."""
    try:
        signature = (directory / SIGNATURE).read_bytes()
    except FileNotFoundError:
        raise CommandFailed(
            "this version is not signed",
            "It takes a minute after it was published; `grail doctor` says what is missing.",
        ) from None
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    try:
        check_model(signature, model_key.read_bytes(), {one["file"]: one["sha256"] for one in manifest["files"]})
    except (NotSigned, KeyUnusable, OSError) as error:
        raise CommandFailed(str(error), "Compare the key with the one that the service's officer gave you.") from None


@adapters.command()
def attestations(
    model: Model,
    version: Version,
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory to write them into.")] = Path("."),
    url: Url = None,
    key: Key = None,
) -> None:
    """Fetch what is signed about a version: how it was made, what was measured and erased, and `model.sig`."""
    items = connect(url, key).get(at("models", model, "adapters", version, "attestations"))["items"]
    if not items:
        raise CommandFailed(
            "nothing is signed about this version yet",
            "It takes a minute after it was published, and a signing key: `grail doctor` says what is missing.",
        )
    out.mkdir(parents=True, exist_ok=True)
    for item in items:
        if Path(item["name"]).name != item["name"]:
            raise CommandFailed("the answer names no file", "Check that --url names a GRAIL Server.")
        (out / item["name"]).write_bytes(item["body"].encode())
        typer.echo(str(out / item["name"]))


@adapters.command()
def activate(
    model: Model,
    version: Version,
    reason: Annotated[str, typer.Option(help="Why; for a superseded version at least 10 characters (officer).")],
    expected_revision: Annotated[int | None, typer.Option(help="Only if the alias is still at this revision.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Point the served model at a version: forward, or back unless that would undo an erasure."""
    body = {"reason": reason, "expected_revision": expected_revision}
    show_fields(connect(url, key).post(at("models", model, "adapters", version, "activate"), body))


@adapters.command()
def recipients(
    model: Model,
    version: Version,
    limit: Annotated[int, typer.Option(min=1)] = 200,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Who has a version, and whether they were told that it is superseded (officer)."""
    items = connect(url, key).pages(at("models", model, "adapters", version, "recipients"), limit)
    if as_json:
        show_json(items)
        return
    rows = [
        [r["id"], r["kind"], r["name"], r["state"].replace("_", " "), when(r["last_at"]), r["acknowledged_version"],
         when(r["notified_at"]), r["notified_by"], r["channel"]]
        for r in items
    ]  # fmt: skip
    columns = ("ID", "KIND", "NAME", "STATE", "LAST", "SERVES", "NOTIFIED", "BY", "CHANNEL")
    show_table(columns, rows, empty="Nobody has pulled or served this version.")


@adapters.command()
def notified(
    model: Model,
    version: Version,
    recipient_id: Annotated[str, typer.Argument(help="The recipient's id, as `recipients` lists it.")],
    channel: Annotated[str, typer.Option(help="One word for how they were told: mail, letter, portal.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Note that a recipient of a superseded version was told (officer)."""
    path = at("models", model, "adapters", version, "recipients", recipient_id, "notified")
    told = connect(url, key).post(path, {"channel": channel})
    hint(f"{told['name']} is {told['state'].replace('_', ' ')}.")
