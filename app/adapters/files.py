"""Adapter directories: checked when they come in, written as immutable versions, streamed when they go out.

A version is written to a temporary name, fsynced and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.adapters.headers import TensorInfo, read_header, read_model_headers, weight_files
from app.errors import ServiceError, StorageFull, Unprocessable
from app.trust.canonical import digest as canonical_digest

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
FORBIDDEN = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
CHUNK = 1 << 20


class NotAnAdapter(Unprocessable):
    """A directory that the service can not serve as a LoRA adapter."""

    type = "not-an-adapter"
    title = "The directory is not a LoRA adapter that can be served"
    mend = "Save it with PEFT: save_pretrained(directory, safe_serialization=True)."


class ShapeMismatch(Unprocessable):
    """An adapter made for another base model."""

    type = "adapter-does-not-fit"
    title = "The adapter does not fit the base model"
    mend = "Name the base model that the adapter was trained on."


class VersionDamaged(ServiceError):
    """A stored version no longer has its digests."""

    status, type, title = 500, "version-damaged", "A stored adapter version was changed or damaged on disk"
    mend = "Restore the version's directory from a backup; activate another version meanwhile."


@dataclass(frozen=True, slots=True)
class WrittenVersion:
    """A version as it lies on disk."""

    name: str
    version: int
    digest: str
    directory: Path
    manifest: dict[str, Any]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, streamed."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def base_digest(directory: Path, cache: Path) -> str:
    """SHA-256 over the base model's weight files, in order of name. Remembered by size and time of change."""
    files = weight_files(directory)
    stamp = json.dumps([[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files])
    place = cache / f"{hashlib.sha256(stamp.encode()).hexdigest()}.digest"
    if place.is_file():
        return place.read_text(encoding="ascii")
    found = canonical_digest([{"file": path.name, "sha256": file_digest(path)} for path in files])
    cache.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    partial.write_text(found, encoding="ascii")
    partial.replace(place)
    return found


def check_adapter(directory: Path, base: Path) -> dict[str, Any]:
    """The adapter's config, once the directory is one that can be served on `base`. Raises NotAnAdapter, BrokenFile,
    ShapeMismatch."""
    try:
        config: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotAnAdapter(f"{directory.name} has no {CONFIG}") from None
    except (ValueError, OSError):
        raise NotAnAdapter(f"{CONFIG} in {directory.name} is not readable JSON") from None
    unsafe = sorted(path.name for path in directory.iterdir() if path.suffix in FORBIDDEN)
    if unsafe:
        raise NotAnAdapter(f"{', '.join(unsafe)}: weights in this form can run code when loaded; safetensors only")
    if config.get("peft_type") != "LORA":
        raise NotAnAdapter(f"the adapter's peft_type is {config.get('peft_type')!r}: only LORA can be unlearned here")
    if config.get("modules_to_save"):
        raise NotAnAdapter(
            "the adapter saves whole modules beside its LoRA tensors: engines can not swap such an adapter"
        )
    if not (directory / WEIGHTS).is_file():
        raise NotAnAdapter(f"{directory.name} has no {WEIGHTS}")
    check_shapes(read_header(directory / WEIGHTS), read_model_headers(base))
    return config


def check_shapes(adapter: dict[str, TensorInfo], base: dict[str, TensorInfo]) -> None:
    """Every LoRA pair must fit the linear map that it changes. Raises ShapeMismatch naming the tensor."""
    if not adapter:
        raise NotAnAdapter("the adapter holds no tensor")
    for name, info in sorted(adapter.items()):
        for side, axis in ((".lora_A.", 1), (".lora_B.", 0)):
            if side not in name:
                continue
            target = name.split(side)[0].removeprefix("base_model.model.") + ".weight"
            weight = base.get(target)
            if weight is None:
                raise ShapeMismatch(f"{name}: the base model has no tensor {target}")
            if len(info.shape) != 2 or info.shape[axis] != weight.shape[axis]:
                raise ShapeMismatch(
                    f"{name}: found {list(info.shape)}, but {target} of the base model is {list(weight.shape)}"
                )
            break
        else:
            raise NotAnAdapter(f"{name} is not a LoRA tensor")


def write_version(
    source: Path, root: Path, *, model_name: str, version: int, base_model_digest: str, parent: str | None
) -> WrittenVersion:
    """Copy config and weights of `source` into an immutable directory below `root`, with a manifest that holds the
    SHA-256 of every file. Raises StorageFull, leaving nothing behind. Writing the same version again gives the same."""
    files = {name: file_digest(source / name) for name in (CONFIG, WEIGHTS)}
    listed = [{"file": name, "sha256": files[name], "bytes": (source / name).stat().st_size} for name in sorted(files)]
    digest = canonical_digest({"base": base_model_digest, "files": listed})
    name = f"{model_name}-v{version:06d}-{digest[:8]}"
    target = root.absolute() / name
    manifest = {
        "schema": "grail.adapter/1", "name": name, "model": model_name, "version": version, "digest": digest,
        "base_model_digest": base_model_digest, "parent": parent, "files": listed,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    if (target / MANIFEST).is_file():
        kept = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        return WrittenVersion(name, version, digest, target, kept)
    partial = target.with_name(f".{name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file in files:
            shutil.copyfile(source / file, partial / file)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _sync(partial)
        partial.rename(target)
        _sync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull("the adapter version could not be written") from None
        raise
    return WrittenVersion(name, version, digest, target, manifest)


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify_version(directory: Path, manifest: dict[str, Any]) -> None:
    """The files on disk are those of the manifest. Raises VersionDamaged naming the file."""
    for entry in manifest["files"]:
        path = directory / entry["file"]
        if not path.is_file() or file_digest(path) != entry["sha256"]:
            raise VersionDamaged(f"{entry['file']} is not as the manifest has it")


def tar_size(directory: Path) -> int:
    """Length in bytes of the archive that `tar_stream` yields."""
    return sum(512 + -(-path.stat().st_size // 512) * 512 for path in _members(directory)) + 1024


def tar_stream(directory: Path, name: str) -> Iterator[bytes]:
    """A tar of the PEFT directory under `name`/, chunk by chunk: memory does not grow with the weights."""
    for path in _members(directory):
        size = path.stat().st_size
        info = tarfile.TarInfo(f"{name}/{path.name}")
        info.size, info.mode = size, 0o644
        yield info.tobuf(tarfile.USTAR_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        yield b"\0" * (-size % 512)
    yield b"\0" * 1024


def _members(directory: Path) -> list[Path]:
    return [directory / file for file in (CONFIG, WEIGHTS, MANIFEST)]
