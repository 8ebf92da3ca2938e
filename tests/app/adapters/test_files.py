"""Adapter directories: what is refused when it comes in, what is written whole or not at all, what goes out."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from app.adapters import files
from app.adapters.files import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    NotAnAdapter,
    ReferenceDiffers,
    ShapeMismatch,
    VersionDamaged,
    WrittenVersion,
    base_digest,
    check_adapter,
    check_reference,
    tar_size,
    tar_stream,
    verify_version,
    write_version,
)
from app.adapters.headers import BrokenFile
from app.errors import StorageFull, Unprocessable
from tests.app import weights
from tests.app.weights import LAYER, adapter, base_model, lora

HEAD = "base_model.model.lm_head"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_model(tmp_path / "base")


def write(source: Path, root: Path, version: int = 1) -> WrittenVersion:
    return write_version(
        source, root, model_name="people", version=version, base_model_digest="ab" * 32, parent=None
    )  # fmt: skip


def below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def without(name: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in lora().items() if key != name}


# What comes in


def test_an_adapter_that_fits_is_taken(tmp_path: Path, base: Path) -> None:
    assert set(check_adapter(adapter(tmp_path / "a"), base)) == set(lora())
    assert check_adapter(adapter(tmp_path / "b", lora(4), r=4), base)
    uneven = lora() | {f"{LAYER}.v_proj.lora_A.weight": (1, 8), f"{LAYER}.v_proj.lora_B.weight": (4, 1)}
    assert check_adapter(adapter(tmp_path / "c", uneven, rank_pattern={"v_proj": 1}), base)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "None"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"r": 4}, "rank 4"),
        ({"r": None}, "rank None"),
        ({"r": "2"}, "rank '2'"),
    ],
)
def test_another_kind_of_adapter_is_refused(tmp_path: Path, base: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(NotAnAdapter, match=says):
        check_adapter(adapter(tmp_path / "a", **fields), base)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"42", b"null", b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * 1_000_001 + b'"}']
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, base: Path, content: bytes) -> None:
    place = adapter(tmp_path / "a")
    (place / CONFIG).write_bytes(content)
    with pytest.raises(NotAnAdapter, match=CONFIG):
        check_adapter(place, base)


@pytest.mark.parametrize("gone", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, base: Path, gone: str) -> None:
    place = adapter(tmp_path / "a")
    (place / gone).unlink()
    with pytest.raises(NotAnAdapter, match=gone):
        check_adapter(place, base)
    (place / gone).mkdir()  # something of that name that is no file
    with pytest.raises(NotAnAdapter, match=gone):
        check_adapter(place, base)


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "x.pt", "x.pth", "x.pkl", "x.pickle", "x.ckpt", "ADAPTER_MODEL.BIN"]
)
def test_weights_that_could_run_code_are_refused_even_beside_safe_ones(tmp_path: Path, base: Path, name: str) -> None:
    place = adapter(tmp_path / "a")
    (place / name).write_bytes(b"x")
    with pytest.raises(NotAnAdapter, match=name):
        check_adapter(place, base)


@pytest.mark.parametrize(
    ("shapes", "error"),
    [
        ({}, NotAnAdapter),
        (lora() | {"base_model.model.lm_head.weight": (10, 8)}, NotAnAdapter),
        (lora() | {"model.layers.0.self_attn.q_proj.lora_A.weight": (2, 8)}, NotAnAdapter),
        (lora() | {f"{LAYER}.q_proj.lora_magnitude_vector": (8,)}, NotAnAdapter),
        (lora() | {f"{HEAD}.lora_A.weight": (2, 8), f"{HEAD}.lora_B.weight": (10, 2)}, NotAnAdapter),
        (without(f"{LAYER}.q_proj.lora_B.weight"), NotAnAdapter),
        (without(f"{LAYER}.v_proj.lora_A.weight"), NotAnAdapter),
        (lora() | {f"{LAYER}.q_proj.lora_A.weight": (3, 8)}, NotAnAdapter),
        (lora(0), NotAnAdapter),
        (lora() | {f"{LAYER}.q_proj.lora_A.weight": (2, 9)}, ShapeMismatch),
        (lora() | {f"{LAYER}.q_proj.lora_B.weight": (9, 2)}, ShapeMismatch),
        (lora() | {f"{LAYER}.q_proj.lora_A.weight": (2, 8, 1)}, ShapeMismatch),
        (lora() | {f"{LAYER}.q_proj.lora_A.weight": (16,)}, ShapeMismatch),
        (lora() | {"base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": (2, 8)}, ShapeMismatch),
        (lora() | {"base_model.model.model.norm.lora_A.weight": (2, 8)}, ShapeMismatch),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_refused(
    tmp_path: Path, base: Path, shapes: dict[str, tuple[int, ...]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        check_adapter(adapter(tmp_path / "a", shapes), base)


def test_tensors_of_whole_numbers_are_refused(tmp_path: Path, base: Path) -> None:
    place = adapter(tmp_path / "a")
    (place / WEIGHTS).write_bytes(weights.weights(lora(), "I8"))
    with pytest.raises(NotAnAdapter, match="I8"):
        check_adapter(place, base)


def test_damaged_weights_of_adapter_or_base_are_refused(tmp_path: Path, base: Path) -> None:
    place = adapter(tmp_path / "a")
    whole = (place / WEIGHTS).read_bytes()
    (place / WEIGHTS).write_bytes(whole[:-1])
    with pytest.raises(BrokenFile, match=WEIGHTS):
        check_adapter(place, base)
    (place / WEIGHTS).write_bytes(whole)
    (base / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(BrokenFile, match=r"model\.safetensors"):
        check_adapter(place, base)
    (base / "model.safetensors").unlink()
    with pytest.raises(Unprocessable, match=r"no \.safetensors"):
        check_adapter(place, base)


def test_names_in_files_may_be_anything_and_the_refusal_can_still_be_sent(tmp_path: Path, base: Path) -> None:
    place = adapter(tmp_path / "a", {"\ud800" * 10: (1,)})
    with pytest.raises(NotAnAdapter) as caught:
        check_adapter(place, base)
    json.dumps(caught.value.problem(), ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("shapes", "config", "says"),
    [
        (lora(4), {"r": 4}, "lora_A"),
        (lora(), {"lora_alpha": 8}, "lora_alpha"),
        (lora(), {"use_rslora": True}, "use_rslora"),
        ({k: v for k, v in lora().items() if "q_proj" in k}, {}, "served adapter only"),
    ],
)
def test_a_reference_of_another_shape_or_scale_than_the_served_adapter_is_refused(
    tmp_path: Path, base: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any], says: str
) -> None:
    served, reference = adapter(tmp_path / "a"), adapter(tmp_path / "b", shapes, **config)
    check_adapter(reference, base)
    with pytest.raises(ReferenceDiffers, match=says):
        check_reference(served, reference)


def test_a_reference_of_the_same_kind_is_taken(tmp_path: Path) -> None:
    served, reference = adapter(tmp_path / "a", use_rslora=False), adapter(tmp_path / "b", fill=b"\x3e")
    check_reference(served, reference)
    more = adapter(tmp_path / "c", lora() | {"base_model.model.lm_head.lora_A.weight": (2, 8)})
    with pytest.raises(ReferenceDiffers, match="reference adapter only"):
        check_reference(served, more)


# What is written


def test_a_version_holds_its_files_and_a_manifest_that_says_so(tmp_path: Path) -> None:
    source, root = adapter(tmp_path / "a"), tmp_path / "versions"
    written = write(source, root, 42)
    assert written.name == f"people-v000042-{written.digest[:8]}"
    assert written.directory == root / written.name
    assert below(root) == {f"{written.name}/{name}" for name in (CONFIG, WEIGHTS, MANIFEST)}
    assert json.loads((written.directory / MANIFEST).read_text()) == written.manifest
    for entry in written.manifest["files"]:
        data = (written.directory / entry["file"]).read_bytes()
        assert data == (source / entry["file"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["bytes"])
    assert str(tmp_path) not in json.dumps(written.manifest)


def test_the_digest_changes_with_each_file_and_with_the_base(tmp_path: Path) -> None:
    one = write(adapter(tmp_path / "a"), tmp_path / "v").digest
    assert write(adapter(tmp_path / "b", fill=b"\x3d"), tmp_path / "v").digest != one
    assert write(adapter(tmp_path / "c", lora_alpha=8), tmp_path / "v").digest != one
    other = write_version(
        tmp_path / "a", tmp_path / "v", model_name="people", version=1, base_model_digest="cd" * 32, parent=None
    )
    assert other.digest != one


def test_writing_the_same_version_again_gives_the_same_and_touches_nothing(tmp_path: Path) -> None:
    source, root = adapter(tmp_path / "a"), tmp_path / "v"
    first = write(source, root)
    stamps = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    assert write(source, root) == first
    assert {path: path.stat().st_mtime_ns for path in first.directory.iterdir()} == stamps


def test_a_version_that_was_damaged_meanwhile_is_not_taken_for_the_same(tmp_path: Path) -> None:
    source, root = adapter(tmp_path / "a"), tmp_path / "v"
    first = write(source, root)
    (first.directory / WEIGHTS).write_bytes(b"x")
    with pytest.raises(VersionDamaged):
        write(source, root)
    (first.directory / MANIFEST).write_text("{}")
    with pytest.raises(VersionDamaged, match=MANIFEST):
        write(source, root)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["copyfile", "fsync", "rename"])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    source, root = adapter(tmp_path / "a"), tmp_path / "v"
    kept = write(adapter(tmp_path / "b", fill=b"\x3d"), root, 7)
    before, calls = below(root), 0
    real = {"copyfile": shutil.copyfile, "fsync": os.fsync, "rename": Path.rename}[step]

    def full(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= (1 if step == "rename" else 2):
            raise OSError(number, "no room")
        return real(*args, **named)

    monkeypatch.setattr(*{"copyfile": (shutil, step), "fsync": (os, step), "rename": (Path, step)}[step], full)
    with pytest.raises(StorageFull):
        write(source, root)
    assert below(root) == before
    assert {path.name for path in root.iterdir()} == {kept.name}
    monkeypatch.undo()
    assert write(source, root).directory.is_dir()


def test_another_error_of_the_disk_is_told_as_it_is_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        write(adapter(tmp_path / "a"), tmp_path / "v")
    assert below(tmp_path / "v") == set()


def test_a_source_that_changes_while_it_is_copied_makes_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = adapter(tmp_path / "a")
    copy = shutil.copyfile

    def meddled(origin: Path, target: Path) -> None:
        copy(origin, target)
        if origin.name == WEIGHTS:
            Path(target).write_bytes(b"other")

    monkeypatch.setattr(shutil, "copyfile", meddled)
    with pytest.raises(VersionDamaged, match=WEIGHTS):
        write(source, tmp_path / "v")
    assert below(tmp_path / "v") == set()


def test_writers_of_the_same_version_at_the_same_time_both_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, root = adapter(tmp_path / "a"), tmp_path / "v"
    together, copy = threading.Barrier(2), shutil.copyfile

    def in_step(*args: Any) -> None:
        together.wait(timeout=30)  # both are past the look whether it is there, and in the middle of their copies
        copy(*args)

    monkeypatch.setattr(files.shutil, "copyfile", in_step)
    found: list[WrittenVersion] = []
    threads = [threading.Thread(target=lambda: found.append(write(source, root))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0].directory == found[1].directory
    assert {path.name for path in root.iterdir()} == {found[0].name}
    verify_version(found[0].directory, json.loads((found[0].directory / MANIFEST).read_text()))


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, MANIFEST])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "a directory", "unreadable"])
def test_any_damage_to_a_version_is_found_and_named(tmp_path: Path, file: str, harm: str) -> None:
    written = write(adapter(tmp_path / "a"), tmp_path / "v")
    verify_version(written.directory, written.manifest)
    path = written.directory / file
    whole = path.read_bytes()
    path.unlink()
    if harm == "changed":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    elif harm == "cut":
        path.write_bytes(whole[:-2])
    elif harm == "a directory":
        path.mkdir()
    elif harm == "unreadable":
        path.symlink_to(path)
    with pytest.raises(VersionDamaged, match=file):
        verify_version(written.directory, written.manifest)


# What goes out


def test_the_archive_is_what_lies_on_disk_and_as_long_as_it_says(tmp_path: Path) -> None:
    written = write(adapter(tmp_path / "a", lora(2)), tmp_path / "v")
    data = b"".join(tar_stream(written.directory, written.name))
    assert len(data) == tar_size(written.directory)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
        assert all(member.isfile() and member.uid == 0 and member.mode == 0o644 for member in tar.getmembers())
    assert members == {
        f"{written.name}/{path.name}": path.read_bytes() for path in written.directory.iterdir()
    }  # fmt: skip


# The base


def test_the_digest_of_a_base_is_that_of_its_weights_and_is_remembered(tmp_path: Path, base: Path) -> None:
    cache = tmp_path / "digests"
    one = base_digest(base, cache)
    assert base_digest(base, cache) == one
    (base / "config.json").write_text("{}")
    assert base_digest(base, cache) == one
    assert len(list(cache.iterdir())) == 1
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (base / "model.safetensors").write_bytes(bytes(data))
    os.utime(base / "model.safetensors", ns=(1, 1))
    assert base_digest(base, cache) != one


def test_a_digest_that_can_not_be_remembered_is_still_found(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = base_digest(base, tmp_path / "digests")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Path, "write_text", full)
    assert base_digest(base, tmp_path / "others") == one
    assert list((tmp_path / "others").iterdir()) == []
