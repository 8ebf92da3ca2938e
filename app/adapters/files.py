"""Adapter directories: checked when they come in, written as immutable versions, streamed when they go out.

A version is written to a temporary name, fsynced and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.adapters.headers import TensorInfo, read_header, read_model_headers, weight_files
from app.errors import ServiceError, StorageFull, Unprocessable
from app.storage import sync_directory
from app.trust.canonical import digest as canonical_digest
from app.trust.model_signature import SIGNATURE

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
FORBIDDEN = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
CHUNK = 1 << 20
CONFIG_MAX_BYTES = 1_000_000
LORA_NAME = re.compile(r"base_model\.model\.(?P<target>.+)\.lora_(?P<side>[AB])\.weight")
FLOATS = ("F32", "F16", "BF16", "F64")
SCALING = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""Settings of an adapter by which the same tensors mean something else."""


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


class ReferenceDiffers(Unprocessable):
    """A reference adapter that can not stand in the served one's place."""

    type = "reference-differs"
    title = "The reference adapter is not of the served adapter's kind"
    mend = "Teach it with the served adapter's rank, alpha and target modules, or register without a reference."


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
    """SHA-256 over the base model's weight files, in order of name. Remembered by size and time of change, if it can
    be."""
    files = weight_files(directory)
    stamp = json.dumps([[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files])
    place = cache / f"{hashlib.sha256(stamp.encode()).hexdigest()}.digest"
    if place.is_file():
        return place.read_text(encoding="ascii")
    found = canonical_digest([{"file": path.name, "sha256": file_digest(path)} for path in files])
    partial = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial.write_text(found, encoding="ascii")
        partial.replace(place)
    except OSError:  # a full disk costs the memory, not the answer
        partial.unlink(missing_ok=True)
    return found


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a configuration file of bounded size. Raises OSError, ValueError."""
    with path.open("rb") as file:
        raw = file.read(CONFIG_MAX_BYTES + 1)
    try:
        content = json.loads(raw) if len(raw) <= CONFIG_MAX_BYTES else None
    except RecursionError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("no JSON object of a configuration's size")
    return content


def check_adapter(directory: Path, base: Path) -> dict[str, TensorInfo]:
    """The adapter's tensors, once the directory is one that can be served on `base`. Raises NotAnAdapter, BrokenFile,
    ShapeMismatch."""
    try:
        config = read_config(directory / CONFIG)
    except FileNotFoundError:
        raise NotAnAdapter(f"{directory.name} has no {CONFIG}") from None
    except (ValueError, OSError):
        raise NotAnAdapter(f"{CONFIG} in {directory.name} is not readable JSON") from None
    unsafe = sorted(path.name for path in directory.iterdir() if path.suffix.lower() in FORBIDDEN)
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
    tensors = read_header(directory / WEIGHTS)
    check_shapes(tensors, read_model_headers(base))
    if not config.get("rank_pattern"):
        check_rank(tensors, config.get("r"))
    return tensors


def check_shapes(adapter: dict[str, TensorInfo], base: dict[str, TensorInfo]) -> None:
    """Every LoRA pair must fit the linear map that it changes, and be whole. Raises ShapeMismatch naming the tensor,
    NotAnAdapter."""
    if not adapter:
        raise NotAnAdapter("the adapter holds no tensor")
    ranks: dict[str, dict[str, int]] = {}
    for name, info in sorted(adapter.items()):
        form = LORA_NAME.fullmatch(name)
        if form is None:
            raise NotAnAdapter(f"{name} is not a LoRA tensor")
        if form["target"] == "lm_head":
            raise NotAnAdapter(f"{name} changes the output matrix, where knowledge can not be localised")
        if info.dtype not in FLOATS:
            raise NotAnAdapter(f"{name} is of type {info.dtype}: LoRA tensors are {', '.join(FLOATS)}")
        target, axis = f"{form['target']}.weight", 1 if form["side"] == "A" else 0
        weight = base.get(target)
        if weight is None:
            raise ShapeMismatch(f"{name}: the base model has no tensor {target}")
        if len(info.shape) != 2 or len(weight.shape) != 2 or info.shape[axis] != weight.shape[axis]:
            raise ShapeMismatch(
                f"{name}: found {list(info.shape)}, but {target} of the base model is {list(weight.shape)}"
            )
        ranks.setdefault(form["target"], {})[form["side"]] = info.shape[1 - axis]
    for target, sides in ranks.items():
        if set(sides) != {"A", "B"} or sides["A"] != sides["B"] or not sides["A"]:
            raise NotAnAdapter(f"{target}: its LoRA tensors A and B are no pair of one rank (found {sides})")


def check_rank(adapter: dict[str, TensorInfo], rank: Any) -> None:
    """The tensors have the rank that the configuration promises. Raises NotAnAdapter."""
    found = {info.shape[0] for name, info in adapter.items() if ".lora_A." in name}
    if found != {rank}:
        raise NotAnAdapter(f"{CONFIG} says rank {rank!r}, the tensors have {', '.join(map(str, sorted(found)))}")


def check_reference(served: Path, reference: Path) -> None:
    """A worker puts the reference adapter's tensors in the served one's place: both must have the same tensors, and
    scale them alike. The caller has checked both against the base. Raises ReferenceDiffers naming what differs."""
    there, here = read_header(served / WEIGHTS), read_header(reference / WEIGHTS)
    strangers = sorted(set(there) ^ set(here))
    if strangers:
        owner = "reference" if strangers[0] in here else "served"
        raise ReferenceDiffers(f"{strangers[0]} is in the {owner} adapter only ({len(strangers)} tensors differ)")
    for name in sorted(here):
        if here[name].shape != there[name].shape:
            raise ReferenceDiffers(f"{name}: {list(here[name].shape)}, in the served adapter {list(there[name].shape)}")
    ours, theirs = read_config(served / CONFIG), read_config(reference / CONFIG)
    for key in SCALING:
        if (ours.get(key) or None) != (theirs.get(key) or None):
            raise ReferenceDiffers(f"its {key} is {theirs.get(key)!r}, the served adapter's {ours.get(key)!r}")


def write_version(
    source: Path,
    root: Path,
    *,
    model_name: str,
    version: int,
    base_model_digest: str,
    parent: str | None,
    check: Callable[[Path], object] = lambda copy: None,
) -> WrittenVersion:
    """Copy config and weights of `source` into an immutable directory below `root`, with a manifest that holds the
    SHA-256 of every file. Raises StorageFull, and what `check` raises of the copy, leaving nothing behind. Writing the
    same version again gives the same.

    Where others may write to `source`, `check` looks at the copy: what was looked at before may have been exchanged.
    """
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
        return _kept(target, name, version, digest)
    partial = target.with_name(f".{name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        for file in files:
            shutil.copyfile(source / file, partial / file)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        verify_version(partial, manifest)  # the source may have changed between its digest and its copy
        check(partial)
        _sync(partial)
        partial.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull("the adapter version could not be written") from None
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST} and (target / MANIFEST).is_file():
            return _kept(target, name, version, digest)  # another thread wrote the same at the same time
        raise
    except ServiceError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return WrittenVersion(name, version, digest, target, manifest)


def _kept(target: Path, name: str, version: int, digest: str) -> WrittenVersion:
    """A version that was written before. Raises VersionDamaged when it is not, or no longer, the same."""
    try:
        kept = read_config(target / MANIFEST)
    except (OSError, ValueError):
        kept = {}
    if kept.get("digest") != digest:
        raise VersionDamaged(f"{MANIFEST} in {name} is not that of this version")
    verify_version(target, kept)
    return WrittenVersion(name, version, digest, target, kept)


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(directory)


def verify_version(directory: Path, manifest: dict[str, Any], *, weights: bool = True) -> None:
    """The files on disk are those of the manifest, itself included; without `weights` all but the weights, which may be
    gone. Raises VersionDamaged naming the file."""
    file = MANIFEST
    try:
        if read_config(directory / MANIFEST) != manifest:
            raise ValueError("another manifest")
        for entry in manifest["files"]:
            file = entry["file"]
            if file == WEIGHTS and not weights:
                continue
            if file_digest(directory / file) != entry["sha256"]:
                raise ValueError("other bytes")
    except (OSError, ValueError):
        raise VersionDamaged(f"{file} is missing or not as the manifest has it") from None


def destroy_weights(directory: Path) -> None:
    """Remove a version's weights for good; manifest and configuration stay. Again is the same. Raises OSError."""
    (directory / WEIGHTS).unlink(missing_ok=True)
    if directory.is_dir():
        sync_directory(directory)


def has_weights(directory: Path) -> bool:
    """Whether a version's weights lie there."""
    return (directory / WEIGHTS).exists()


def tar_size(directory: Path, signature: bytes | None = None) -> int:
    """Length in bytes of the archive that `tar_stream` yields."""
    sizes = [path.stat().st_size for path in _members(directory)] + ([] if signature is None else [len(signature)])
    return sum(512 + -(-size // 512) * 512 for size in sizes) + 1024


def tar_stream(directory: Path, name: str, signature: bytes | None = None) -> Iterator[bytes]:
    """A tar of the PEFT directory under `name`/, with its signature where there is one, chunk by chunk: memory does not
    grow with the weights."""
    for path in _members(directory):
        size = path.stat().st_size
        yield _header(f"{name}/{path.name}", size)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        yield b"\0" * (-size % 512)
    if signature is not None:
        yield _header(f"{name}/{SIGNATURE}", len(signature)) + signature + b"\0" * (-len(signature) % 512)
    yield b"\0" * 1024


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def _members(directory: Path) -> list[Path]:
    return [directory / file for file in (CONFIG, WEIGHTS, MANIFEST)]
