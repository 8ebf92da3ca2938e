"""The golden vectors: `zscore` answers from the published implementation, `squared` ones from the paper's equations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grail.config import UnlearnConfig
from grail.localise.gradients import GradientStats
from grail.localise.regions import locate
from grail.types import Segment

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden"
FILES = sorted(GOLDEN.glob("regions_*.json"))


def golden_stats(golden: dict[str, Any]) -> GradientStats:
    found = {}
    for label, tensors in golden.get("example_gradients", golden.get("mean_gradients")).items():
        domain, segment = label.split("_")
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in tensors.items()}
        squared = golden["score"] == "squared"
        found[domain, Segment(segment)] = {
            name: value.square().mean(dim=0) if squared else value for name, value in values.items()
        }
    return GradientStats(found, found, dict.fromkeys(found, 1))


@pytest.mark.skipif(not FILES, reason="the golden vectors are not beside the project")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_regions_equal_the_golden_vectors(path: Path) -> None:
    golden = json.loads(path.read_text())
    config = UnlearnConfig(score=golden["score"], k_ur=golden["k_ur"], k_rr=golden["k_rr"])
    masks = locate(golden_stats(golden), config, torch.Generator())
    for label, found in (("op_ur", masks.op_ur), ("op_rr", masks.op_rr)):
        for name, expected in golden[label].items():
            assert found[name].flatten().nonzero().flatten().tolist() == sorted(expected), (label, name)
