"""The stages of a job on a tiny model: each is computed once, and again only when something that shapes it changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from grail.config import GateConfig
from grail.metrics.likelihood import NonFiniteScore
from grail.model.adapter import read_saved, read_state, save_adapter, state_digest
from grail.train import NonFinite
from grail.types import Progress, Segment
from tests.fixtures.facts import PEOPLE, PLACE
from tests.worker.bench import Bench, Stopped, example, examples, same
from worker import pipeline
from worker.artifacts import ArtefactStore

STAGES = ["original", "reference", "localise", "unlearn", "candidate"]


def test_measuring_that_does_not_fit_goes_on_in_smaller_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, sizes = pipeline.measure, []

    def small(*args: Any, micro_batch: int, **more: Any) -> Any:
        sizes.append(micro_batch)
        if micro_batch > 16:
            raise MemoryError
        return measure(*args, micro_batch=micro_batch, **more)

    monkeypatch.setattr(pipeline, "measure", small)
    assert bench.run().state is not None
    assert sizes[:3] == [64, 32, 16]


def test_a_second_run_over_the_same_store_recomputes_nothing(bench: Bench) -> None:
    first = bench.run()
    assert set(bench.calls) == {
        "localise",
        "unlearn",
        *(f"measure {stage}" for stage in ("original", "reference", "candidate")),
    }
    assert [stage for stage, _ in bench.told] == STAGES
    told = list(bench.told)
    second = bench.run()
    assert bench.calls == {}
    assert bench.told == told
    same(first, second)


def test_the_store_holds_no_text_of_a_request_and_no_unfinished_work(bench: Bench) -> None:
    bench.run()
    files = [path for path in bench.store.root.rglob("*") if path.is_file()]
    words = [word for row in examples() for word in (row.prompt, row.completion)]
    assert files
    for path in files:
        data = path.read_bytes() + str(path).encode()
        assert not [word for word in words if word.encode() in data], path.name
    assert not list(bench.store.root.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"unlearn": {"micro_batch": 2}}, set()),
        ({"gate": GateConfig(min_rs=1.0)}, set()),
        ({"unlearn": {"steps": 2}}, {"unlearn", "measure candidate"}),
        ({"unlearn": {"learning_rate": 2e-3}}, {"unlearn", "measure candidate"}),
        ({"unlearn": {"retain_weight": 2.0}}, {"unlearn", "measure candidate"}),
        ({"unlearn": {"k_ur": 0.2}}, {"localise", "unlearn", "measure candidate"}),
        ({"unlearn": {"seed": 1}}, {"localise", "unlearn", "measure candidate"}),
        ({"adapter_digest": "another"}, {"measure original", "localise", "unlearn", "measure candidate"}),
        ({"reference_digest": "another"}, {"measure reference", "unlearn", "measure candidate"}),
        (
            {"base_digest": "another"},
            {"measure original", "measure reference", "localise", "unlearn", "measure candidate"},
        ),
    ],
    ids=lambda part: "-".join(map(str, part)) if isinstance(part, dict) else None,
)
def test_a_change_recomputes_what_it_shapes_and_no_more(bench: Bench, change: dict[str, Any], again: set[str]) -> None:
    bench.run()
    bench.run(**change)
    assert set(bench.calls) == again


def test_of_new_examples_only_what_is_new_is_measured(bench: Bench) -> None:
    bench.run()
    new = example(90, PLACE.format("Bo"), PEOPLE["Bo"][0], Segment.RETAIN, "Bo")
    bench.run(examples=(*examples(), new))
    assert (bench.calls["measure original"], bench.calls["measure reference"]) == (1, 1)
    assert bench.calls["localise"] == bench.calls["unlearn"] == 1


def test_what_the_base_knows_by_itself_yields_no_candidate(bench: Bench) -> None:
    outcome = bench.run(gate=GateConfig(in_base_accuracy=0.0))
    assert (outcome.state, outcome.log, outcome.regions) == (None, None, None)
    assert [stage for stage, _ in bench.told] == ["original", "reference"]
    assert "localise" not in bench.calls and "unlearn" not in bench.calls
    assert outcome.result.outcomes[examples()[0].id] == "in_base"
    assert [check.name for check in outcome.verdict.checks if check.name == "certified_forget_items"]
    assert state_digest(read_state(bench.model.model)) == state_digest(bench.start)


def test_a_run_that_was_stopped_in_training_goes_on_to_the_same_end(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = bench.run()
    bench.store = ArtefactStore(tmp_path / "others", tmp_path / "scratch")

    def stop(progress: Progress) -> None:
        if progress.stage == "unlearn" and progress.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        bench.run(report=stop)
    assert [stage for stage, _ in bench.told] == ["original", "reference", "localise"]
    steps: list[int] = []
    resumed = bench.run(report=lambda p: steps.append(p.step) if p.stage == "unlearn" else None)
    assert set(bench.calls) == {"unlearn", "measure candidate"}
    assert min(steps) == 3, "it went on after the checkpoint at step 2"
    same(whole, resumed)


def test_an_adapter_with_broken_numbers_ends_the_run_before_anything_is_computed_on_it(bench: Bench) -> None:
    name = next(iter(bench.start))
    bench.start[name] = torch.full_like(bench.start[name], float("nan"))
    with pytest.raises(NonFiniteScore):
        bench.run()
    assert (bench.told, [path for path in bench.store.root.rglob("*") if path.is_file()]) == ([], [])


def test_training_that_leaves_the_numbers_ends_the_run_and_keeps_no_adapter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = torch.Tensor.backward

    def to_nowhere(loss: torch.Tensor, *args: Any, **named: Any) -> None:
        backward(loss * float("inf"), *args, **named)

    def stop_after_localising(progress: Progress) -> None:
        if progress.stage == "localise" and progress.share == 1.0:
            monkeypatch.setattr(torch.Tensor, "backward", to_nowhere)

    with pytest.raises(NonFinite):
        bench.run(report=stop_after_localising)
    monkeypatch.undo()
    assert "unlearn" not in dict(bench.told)


def test_a_stage_whose_end_can_not_be_told_ends_the_run(bench: Bench) -> None:
    def lost(stage: str, digest: str, seconds: float) -> None:
        if stage == "localise":
            raise Stopped

    with pytest.raises(Stopped):
        bench.run(finished=lost)
    assert "unlearn" not in bench.calls


def test_the_served_adapters_files_are_only_read(bench: Bench, tiny_adapter_directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in tiny_adapter_directory.iterdir()}
    bench.run()
    assert {path.name: path.read_bytes() for path in tiny_adapter_directory.iterdir()} == before


def test_what_was_judged_is_what_is_published_to_the_bit(bench: Bench, tmp_path: Path) -> None:
    """Adapters are saved in bf16: a candidate judged in fp32 would be another one than the one that is served."""
    outcome = bench.run()
    assert outcome.state is not None
    assert state_digest(read_state(bench.model.model)) == state_digest(outcome.state)
    save_adapter(bench.model.model, tmp_path / "saved", outcome.state)
    assert state_digest(read_saved(tmp_path / "saved")) == state_digest(outcome.state)


def test_a_reference_adapter_is_measured_in_the_served_ones_place(bench: Bench) -> None:
    off = bench.run().result
    shifted = {name: tensor * 0.5 for name, tensor in bench.start.items()}
    bench.model.reference = shifted
    other = bench.run(reference_digest="registered").result
    assert bench.calls["measure reference"] == len(examples())
    rows = [
        {row.example.id: row.reference for row in result.rows} for result in (off, other)
    ]  # fmt: skip
    assert rows[0] != rows[1]
