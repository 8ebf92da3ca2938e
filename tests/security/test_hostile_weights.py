"""Weight files that are no weights: bombs in their headers, and code under a harmless name."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.adapters.files import CONFIG, WEIGHTS
from app.adapters.headers import HEADER_MAX_BYTES, BrokenFile, read_header
from tests.app import weights
from tests.app.service import Floor


class Payload:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("taken over",))


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


LONG = b"9" * 4200
TENSOR = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
BOMBS = {
    "a product of very long numbers": framed(
        b'{"a":{"dtype":"F32","shape":[' + b",".join([LONG] * 3000) + b'],"data_offsets":[0,4]}}', b"\0" * 4
    ),
    "offsets that nobody can count": framed(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + LONG + b"]}}", b"\0" * 4
    ),
    "a shape that grows with each length": framed(
        b'{"a":{"dtype":"F32","shape":[' + b",".join([b"9" * 18] * 100_000) + b'],"data_offsets":[0,4]}}', b"\0" * 4
    ),
    "a name that stands twice": framed(b'{"a":' + TENSOR + b',"a":' + TENSOR + b"}", b"\0" * 4),
    "a field that stands twice": framed(b'{"a":{"dtype":"F64",' + TENSOR[1:] + b"}", b"\0" * 4),
    "more than any header has": (HEADER_MAX_BYTES + 1).to_bytes(8, "little") + b" " * 100,
    "the largest length that there is": b"\xff" * 8 + b"{}",
    "a length that wraps around": (2**63).to_bytes(8, "little") + b"{}",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_header_that_is_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / WEIGHTS
    path.write_bytes(data)
    with pytest.raises(BrokenFile):
        read_header(path)


def test_more_tensors_than_any_model_has_are_refused_by_the_headers_length(tmp_path: Path) -> None:
    """A sparse file, whose header would be read into memory otherwise."""
    path = tmp_path / WEIGHTS
    with path.open("wb") as file:
        file.write((HEADER_MAX_BYTES + 1).to_bytes(8, "little"))
        file.truncate(3 * HEADER_MAX_BYTES)
    with pytest.raises(BrokenFile, match="cut off or malformed"):
        read_header(path)


@pytest.mark.parametrize("form", ["pickle", "zip of pickles", "framed pickle"])
def test_code_under_the_name_of_weights_is_neither_run_nor_taken(
    shared: Floor, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    place = weights.adapter(shared.directory / form.replace(" ", "-"))
    code = pickle.dumps(Payload())
    (place / WEIGHTS).unlink()
    if form == "zip of pickles":  # as torch.save writes it
        with zipfile.ZipFile(place / WEIGHTS, "w") as file:
            file.writestr("archive/data.pkl", code)
    else:
        (place / WEIGHTS).write_bytes(code if form == "pickle" else framed(code))
    body = shared.registration("code", adapter_path=str(place))
    assert shared.caller.refused("operator", "POST", "/v1/models", json=body) == (422, "broken-weights")
    assert "taken over" not in "".join(capfd.readouterr())


def test_a_configuration_that_asks_for_code_is_not_followed(shared: Floor) -> None:
    """`auto_map` and `trust_remote_code` of a configuration name modules to import: nothing here reads them."""
    place = weights.adapter(shared.directory / "remote")
    config = json.loads((place / CONFIG).read_text())
    config |= {"auto_mapping": {"base_model_class": "os", "parent_library": "os"}, "trust_remote_code": True}
    (place / CONFIG).write_text(json.dumps(config))
    (place / "modeling_evil.py").write_text("raise SystemExit('taken over')")
    shared.caller.call(
        "operator", "POST", "/v1/models", 201, json=shared.registration("remote", adapter_path=str(place))
    )
    written = next(path for path in shared.settings.adapters_dir.iterdir() if path.name.startswith("remote-v"))
    assert not list(written.glob("*.py"))
