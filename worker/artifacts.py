"""What a job's stages made, kept under the digest of all that shaped it: a job started again finds it and goes on.

Masks and adapters are safetensors with a JSON header, scores and logs JSON. Written to a temporary name, fsynced,
renamed: a half-written artefact is never seen. Nothing here holds request text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from grail.localise.regions import MaskSet
from grail.metrics.base import ExampleScore
from grail.model.adapter import AdapterState
from grail.train import TrainLog
from worker.bits import pack, unpack

PACKED = "packed-bits-1"
"""In the header of masks that are kept as `worker.bits` writes them."""


def key_of(*parts: Any) -> str:
    """SHA-256 of canonical JSON: the name of an artefact, from all that shaped it."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _shards(contents: Iterable[str]) -> dict[str, list[str]]:
    """Content keys by their first digit: as many files, so that none has to hold all scores of an adapter."""
    shards: dict[str, list[str]] = {}
    for name in contents:
        shards.setdefault(name[:1], []).append(name)
    return shards


class ArtefactStore:
    """A directory of artefacts, sharded by the first two digits of their key. `scratch` (on the same file system) takes
    what is not whole: it is wiped when the job is over, whatever became of its worker."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.scratch = root, scratch

    def directory(self, key: str) -> Path:
        """Where a stage that is not over may keep its checkpoints."""
        return self.scratch / f"{key}.partial"

    def path(self, key: str, suffix: str) -> Path:
        """Where the artefact of that key lies."""
        return self.root / key[:2] / f"{key}{suffix}"

    def read_json(self, key: str) -> Any | None:
        """The JSON artefact, or None. A damaged one counts as absent: it is made again."""
        try:
            return json.loads(self.path(key, ".json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def write_json(self, key: str, value: Any) -> None:
        """Keep a JSON artefact."""
        data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        self._place(self.path(key, ".json"), lambda partial: partial.write_bytes(data) and None)

    def read_tensors(self, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The tensors and their JSON header, or None. A damaged file counts as absent."""
        path = self.path(key, ".safetensors")
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
                return tensors, json.loads((file.metadata() or {}).get("header", "{}"))
        except (SafetensorError, ValueError):
            return None

    def write_tensors(self, key: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
        """Keep tensors with a JSON header."""
        metadata = {"header": json.dumps(header, sort_keys=True)}
        self._place(
            self.path(key, ".safetensors"), lambda partial: save_file(dict(tensors), partial, metadata=metadata)
        )

    def _place(self, path: Path, write: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self.scratch / f"{path.name}.{os.getpid()}"
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def read_masks(self, key: str) -> MaskSet | None:
        """Masks kept under `key`, packed to bits or, from an older version of the code, one byte an entry."""
        found = self.read_tensors(key)
        if found is None:
            return None
        tensors, header = found
        try:
            if header.get("format") == PACKED:
                shapes, header = header["shapes"], header["summary"]
                tensors = {name: unpack(tensors[name], shape) for name, shape in shapes.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        masks: dict[str, dict[str, torch.Tensor]] = {"op_ur": {}, "op_rr": {}}
        for name, tensor in tensors.items():
            label, _, parameter = name.partition("/")
            masks.setdefault(label, {})[parameter] = tensor
        return MaskSet(masks["op_ur"], masks["op_rr"], header)

    def write_masks(self, key: str, masks: MaskSet) -> None:
        """Keep masks, a bit an entry, with their summary."""
        tensors = {f"op_ur/{name}": mask for name, mask in masks.op_ur.items()}
        tensors |= {f"op_rr/{name}": mask for name, mask in masks.op_rr.items()}
        shapes = {name: list(mask.shape) for name, mask in tensors.items()}
        packed = {name: pack(mask) for name, mask in tensors.items()}
        self.write_tensors(key, packed, {"format": PACKED, "shapes": shapes, "summary": masks.summary})

    def read_adapter(self, key: str) -> tuple[AdapterState, TrainLog] | None:
        """A trained adapter and its log; None too for a log of another version of the code."""
        found = self.read_tensors(key)
        try:
            return None if found is None else (found[0], TrainLog(**found[1]))
        except TypeError:
            return None

    def write_adapter(self, key: str, state: AdapterState, log: TrainLog) -> None:
        """Keep a trained adapter and its log."""
        self.write_tensors(key, state, asdict(log))

    def read_scores(self, key: str, contents: Collection[str]) -> dict[str, ExampleScore]:
        """Those of the scores of these contents (SHA-256 in hex) that are there, and of this version of the code."""
        found: dict[str, ExampleScore] = {}
        for shard, wanted in _shards(contents).items():
            kept = self._shard(key, shard)
            try:
                found |= {name: ExampleScore(**kept[name]) for name in wanted if name in kept}
            except TypeError:
                continue
        return found

    def _shard(self, key: str, shard: str) -> dict[str, Any]:
        """One file of scores, by content."""
        kept = self.read_json(key_of(key, shard))
        return kept if isinstance(kept, dict) else {}

    def write_scores(self, key: str, scores: Mapping[str, ExampleScore]) -> None:
        """Add scores, without the answers they were computed from. When two workers add at once one of them may be
        lost, and is measured again."""
        for shard, names in _shards(scores).items():
            kept = self._shard(key, shard)
            plain = {name: {k: v for k, v in asdict(scores[name]).items() if k != "answer"} for name in names}
            self.write_json(key_of(key, shard), {**kept, **plain})
