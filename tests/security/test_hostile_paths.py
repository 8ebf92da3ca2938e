"""Names that try to lead elsewhere: in addresses, in the paths that models are registered from, inside of archives."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.files import CONFIG, WEIGHTS
from cli.adapters import _unpack
from cli.failures import CommandFailed
from tests.app import weights
from tests.app.service import Floor
from tests.app.test_openapi import PARTS, ROLES, sent

ELSEWHERE = [
    "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "..%5c..%5cwindows", "%252e%252e%252f", "%c0%ae%c0%ae%2f",
    "people%00.json", "people%0d%0aX-Made:%201", "people%2f..%2fother", "a" * 5000, "%ed%a0%80", "people'--", "-1",
]  # fmt: skip
SECRET_FILE = "root:"


@pytest.mark.parametrize(("method", "path"), sorted(key for key in ROLES if "{" in key[1]))
def test_no_id_in_an_address_leads_elsewhere(shared: Floor, method: str, path: str) -> None:
    more = sent(method, path)
    for part in (name for name in PARTS if f"{{{name}}}" in path):
        for given in ELSEWHERE:
            place = path.format(**PARTS | {part: given})
            answer = shared.caller.send("admin", method, place, **more)
            assert answer.status_code in {400, 404, 405, 409, 422}, f"{place}: {answer.status_code}"
            assert SECRET_FILE not in answer.text and "x-made" not in answer.headers


@pytest.mark.parametrize("file", [*ELSEWHERE, "..%2fmain.py", "%2fetc%2fpasswd", "swagger-ui.css%00"])
def test_the_viewer_hands_out_its_two_files_alone(shared: Floor, file: str) -> None:
    assert shared.caller.send("admin", "GET", f"/docs/{file}").status_code == 404


@pytest.mark.parametrize("field", ["base_model_path", "adapter_path", "reference_adapter_path"])
@pytest.mark.parametrize(
    "place",
    [
        "https://models.example.com/x", "http://127.0.0.1:1/x", "file:///etc", "s3://bucket/x", "hf://org/name",
        "\\\\host\\share", "//host/share", "~", "~root", "$HOME", "org/name", "/proc/self/root", "/proc/self/cwd/..",
        "/dev/fd", "..", "a/../../..", "\u2024\u2024/etc", "/etc/\u202epasswd",
    ],
)  # fmt: skip
def test_no_path_is_an_address_or_leads_out(
    shared: Floor, monkeypatch: pytest.MonkeyPatch, field: str, place: str
) -> None:
    """Nothing is fetched: an adapter's URL is a path like any other, and there is nothing at it."""
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args) or [])
    body = shared.registration("elsewhere", **{field: place})
    assert shared.caller.refused("operator", "POST", "/v1/models", json=body) == (422, "path-refused")
    assert asked == []


@pytest.mark.parametrize("which", ["adapter", "base"])
def test_a_file_that_never_ends_is_not_opened(shared: Floor, tmp_path: Path, which: str) -> None:
    """Reading from a pipe that nobody writes to would hold a thread for ever."""
    place = weights.adapter(shared.directory / f"pipe-{which}")
    os.mkfifo(place / "tokenizer.json")
    body = shared.registration("pipes", **{f"{which}_path" if which == "adapter" else "base_model_path": str(place)})
    answer = shared.caller.send("operator", "POST", "/v1/models", json=body)
    assert answer.status_code == 422 and "neither a file nor a directory" in answer.json()["detail"]


def test_files_that_are_exchanged_after_they_were_looked_at_are_not_handed_out(
    shared: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write where models come from puts a link in the place of the weights, once they were found right."""
    from app.served_models import service

    secret = shared.directory.parent / "of-the-host"
    secret.write_text("root:x:0:0")
    place = weights.adapter(shared.directory / "swapped")
    looked_at, first = service.check_adapter, True

    def then_swapped(directory: Path, base: Path) -> Any:
        nonlocal first
        found = looked_at(directory, base)
        if first:
            first = False
            (place / WEIGHTS).unlink()
            (place / WEIGHTS).symlink_to(secret)
        return found

    monkeypatch.setattr(service, "check_adapter", then_swapped)
    body = shared.registration("swapped", adapter_path=str(place))
    assert shared.caller.refused("operator", "POST", "/v1/models", json=body) == (422, "broken-weights")
    assert not first
    left = [path for path in shared.settings.adapters_dir.rglob("*") if "swapped" in path.name]
    assert left == []


def archive(*members: tuple[str, bytes, dict[str, Any]], mode: str = "w") -> httpx.Response:
    """A download as a hostile server would send it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return httpx.Response(200, content=packed.getvalue())


LINK = {"type": tarfile.SYMTYPE, "linkname": "../../outside"}


@pytest.mark.parametrize(
    "sent_archive",
    [
        archive(("../outside", b"x", {})),
        archive(("/outside", b"x", {})),
        archive(("v1/../../outside", b"x", {})),
        archive(("v1/link", b"", LINK), ("v1/link/file", b"x", {})),
        archive(("v1/hard", b"", {**LINK, "type": tarfile.LNKTYPE})),
        archive(("v1/device", b"", {"type": tarfile.CHRTYPE})),
        archive((f"v1/{CONFIG}", b"{}", {})),
        archive((f"v1/{CONFIG}", b"\0" * 10_000_000, {}), mode="w:gz"),
        httpx.Response(200, content=b"PK\x03\x04 no tar"),
        httpx.Response(200, content=b""),
    ],
    ids=["up", "root", "through", "link", "hard link", "device", "no manifest", "compressed", "zip", "empty"],
)
def test_an_archive_unpacks_nothing_outside_of_its_place(tmp_path: Path, sent_archive: httpx.Response) -> None:
    partial = tmp_path / "deep" / "partial"
    partial.parent.mkdir()
    with pytest.raises(CommandFailed):
        _unpack(sent_archive, partial, "v1")
    assert [path for path in tmp_path.rglob("*") if "outside" in path.name and partial not in path.parents] == []
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 100_000
