"""What stages made: read as it was written, or counted as absent; never seen half-written; never holding an answer."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grail.localise.regions import MaskSet
from grail.metrics.base import ExampleScore
from grail.train import TrainLog
from worker.artifacts import PACKED, ArtefactStore, key_of

KEY = key_of("a", 1)
LOG = TrainLog(3, 2, None, [{"step": 1, "forget": 0.5}], [{"step": 2.0, "chs": 1.0}], 3)
SCORE = ExampleScore(0.5, 1.25, 40.0, 30.0, True, answer="she lives at 7 Elm Row")


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(tmp_path / "artifacts", tmp_path / "scratch")


def files(store: ArtefactStore) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if path.is_file())


def masks() -> MaskSet:
    tensor = torch.tensor([[True, False], [False, True]])
    return MaskSet({"x.lora_A": tensor, "y": ~tensor}, {"x.lora_A": ~tensor}, {"share": 0.5, "of": ["privacy"]})


def test_json_comes_back(store: ArtefactStore) -> None:
    for value in ({"b": [1, 2.5, None], "ä": "ö"}, [], 7, {}):
        store.write_json(KEY, value)
        assert store.read_json(KEY) == value


def test_masks_come_back_with_their_digest_and_summary(store: ArtefactStore) -> None:
    written = masks()
    store.write_masks(KEY, written)
    found = store.read_masks(KEY)
    assert found is not None
    assert (found.digest, found.summary) == (written.digest, written.summary)
    assert set(found.op_ur) == {"x.lora_A", "y"} and set(found.op_rr) == {"x.lora_A"}
    assert found.op_ur["y"].dtype is torch.bool


def test_masks_of_an_older_version_one_byte_an_entry_are_still_read(store: ArtefactStore) -> None:
    old = masks()
    tensors = {f"op_ur/{name}": mask for name, mask in old.op_ur.items()}
    tensors |= {f"op_rr/{name}": mask for name, mask in old.op_rr.items()}
    store.write_tensors(KEY, tensors, old.summary)
    found = store.read_masks(KEY)
    assert found is not None
    assert (found.digest, found.summary) == (old.digest, old.summary)


def test_masks_take_a_bit_an_entry_on_disk(store: ArtefactStore) -> None:
    large = torch.ones(1000, 800, dtype=torch.bool)
    store.write_masks(KEY, MaskSet({"a": large}, {"a": ~large}, {}))
    (path,) = files(store)
    assert 200_000 < path.stat().st_size < 201_000


@pytest.mark.parametrize(
    "header",
    [
        {"format": PACKED, "summary": {}},
        {"format": PACKED, "shapes": {"op_ur/x": [3, 3]}, "summary": {}},
        {"format": PACKED, "shapes": {"op_ur/y": [4]}, "summary": {}},
        {"format": PACKED, "shapes": {"op_ur/x": ["4"]}, "summary": {}},
        [],
    ],
)
def test_packed_masks_whose_header_does_not_fit_count_as_absent(store: ArtefactStore, header: Any) -> None:
    store.write_tensors(KEY, {"op_ur/x": torch.tensor([5], dtype=torch.uint8)}, header)
    assert store.read_masks(KEY) is None


def test_an_adapter_comes_back_to_the_bit_with_its_log(store: ArtefactStore) -> None:
    state = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), "b": torch.tensor([1e-38, -0.0])}
    store.write_adapter(KEY, state, LOG)
    found = store.read_adapter(KEY)
    assert found is not None and found[1] == LOG
    assert all(
        torch.equal(found[0][name], tensor) and found[0][name].dtype is tensor.dtype for name, tensor in state.items()
    )


def test_scores_come_back_without_the_answers_and_add_up(store: ArtefactStore) -> None:
    contents = [f"{digit:x}" * 64 for digit in range(16)]
    for content in contents:
        store.write_scores(KEY, {content: SCORE})
    found = store.read_scores(KEY, [*contents, "ab" * 32])
    assert found == dict.fromkeys(contents, replace(SCORE, answer=None))
    assert store.read_scores(key_of("another"), contents) == {}
    assert not any(b"Elm Row" in path.read_bytes() for path in files(store))


@pytest.mark.parametrize("harm", ["cut", "emptied", "garbage", "gone", "another version"])
def test_what_is_damaged_or_of_another_version_counts_as_absent_and_is_made_again(
    store: ArtefactStore, harm: str
) -> None:
    def write() -> None:
        store.write_json(key_of("json"), {"a": 1})
        store.write_masks(key_of("masks"), masks())
        store.write_adapter(key_of("adapter"), {"a": torch.zeros(4)}, LOG)
        store.write_scores(key_of("scores"), {"ab" * 32: SCORE})

    write()
    for path in files(store):
        whole = path.read_bytes()
        if harm == "cut":
            path.write_bytes(whole[:-1])
        elif harm == "emptied":
            path.write_bytes(b"")
        elif harm == "garbage":
            path.write_bytes(bytes(255 - byte for byte in whole))
        elif harm == "gone":
            path.unlink()
    if harm == "another version":
        store.write_tensors(key_of("adapter"), {"a": torch.zeros(4)}, {"steps": 3, "surprise": 1})
        store.write_json(key_of(key_of("scores"), "a"), {"ab" * 32: {"surprise": 1}})
    else:
        assert store.read_json(key_of("json")) is None
        assert store.read_masks(key_of("masks")) is None
    assert store.read_adapter(key_of("adapter")) is None
    assert store.read_scores(key_of("scores"), ["ab" * 32]) == {}
    write()
    assert store.read_masks(key_of("masks")) is not None
    assert store.read_adapter(key_of("adapter")) is not None
    assert store.read_scores(key_of("scores"), ["ab" * 32])


@pytest.mark.parametrize("value", [[], [1], "text", 3, None])
def test_scores_of_another_form_count_as_absent(store: ArtefactStore, value: Any) -> None:
    store.write_json(key_of(KEY, "a"), value)
    assert store.read_scores(KEY, ["ab" * 32]) == {}
    store.write_scores(KEY, {"ab" * 32: SCORE})
    assert set(store.read_scores(KEY, ["ab" * 32])) == {"ab" * 32}


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    store: ArtefactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_json(KEY, {"kept": 1})
    before = files(store)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        store.write_json(KEY, {"kept": 2})
    with pytest.raises(OSError, match="no room"):
        store.write_masks(KEY, masks())
    assert files(store) == before
    assert store.read_json(KEY) == {"kept": 1}


@given(st.lists(st.one_of(st.integers(), st.text(), st.dictionaries(st.text(), st.integers())), max_size=3))
def test_a_key_tells_all_that_shaped_it_and_not_the_order_of_names(parts: list[Any]) -> None:
    key = key_of(*parts)
    assert key == key_of(*json.loads(json.dumps(parts)))
    assert key != key_of(*parts, None)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of("1") != key_of(1)
