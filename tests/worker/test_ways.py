"""Every way to unlearn through the pipeline: methods without regions, frozen entries, general data, reference
adapters, and strategies that take one domain after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from app.reports.contents import page
from app.reports.html import render
from app.reports.schemas import Issued, json_schema
from grail.config import NothingNamed, UnlearnConfig
from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.evaluate import Row, measure
from grail.localise.regions import NoRetainData
from grail.metrics.success import unlearning_success
from grail.model.adapter import as_saved, save_adapter, state_digest, with_adapter
from grail.model.forward import completion_logits
from grail.model.load import LoadedModel, load_model
from grail.report import document, request_outcome
from grail.train import teach
from grail.types import Example, Progress, Segment
from tests.fixtures.facts import TEMPLATE, taught_adapter
from tests.fixtures.tiny_model import tiny_shape
from tests.worker.bench import Bench, Stopped, example, examples, make_bench, same, works
from worker import pipeline
from worker.artifacts import ArtefactStore
from worker.pipeline import Outcome

BOTH = (*examples(), *works())
IN_TURN = "privacy>copyright"
MOMENT = "2026-03-01T12:00:00+00:00"
THOROUGH = {
    "steps": 40, "examples_per_step": 8, "micro_batch": 8, "learning_rate": 1e-3, "forget_weight": 1.0,
    "score_every_steps": 10, "holdout_share": 0.0,
}  # fmt: skip


def general(count: int = 4) -> tuple[Example, ...]:
    """Instruction data that has nothing to do with anybody."""
    return tuple(
        example(80 + n, f"Add {n} and 1.", f"It is {n + 1}.", Segment.RETAIN, f"sum {n}", "general")
        for n in range(count)
    )


def report_of(outcome: Outcome, config: UnlearnConfig) -> str:
    """The report of an outcome as a person reads it; its document fits the published schema."""
    job = {
        "id": "j", "served_model": "tiny", "created_at": MOMENT, "started_at": MOMENT, "finished_at": MOMENT,
        "attempts": 1, "timings_seconds": outcome.timings,
    }  # fmt: skip
    asked = [
        {"id": request, "domain": "privacy", "received_at": MOMENT, "due_at": MOMENT, "legal_basis": None}
        for request in outcome.result.requests
    ]
    version = {"version": 1, "name": "v1", "digest": "ab" * 32}
    model = {
        "base_path_name": "base", "base_digest": "ab" * 32, "note": None, "start_adapter": version,
        "candidate_adapter": None, "reference": "adapter off",
    }  # fmt: skip
    made = document(
        job=job, requests=asked, model=model, config=config, result=outcome.result, verdict=outcome.verdict,
        regions=outcome.regions, log=outcome.log, environment=outcome.environment, held_out=outcome.held_out,
    )  # fmt: skip
    Draft202012Validator(json_schema()).validate(made)
    issued = Issued(made, "ab" * 32, "rejected", ())
    assert page(issued).sections
    return render(issued).decode()


def digest(outcome: Outcome) -> str:
    assert outcome.state is not None
    return state_digest(outcome.state)


@pytest.mark.parametrize("way", [{}, {"method": "memflex"}, {"method": "grad_diff"}], ids=str)
def test_two_legs_make_the_adapter_that_two_runs_in_turn_make(bench: Bench, way: dict[str, Any]) -> None:
    whole = bench.run(examples=BOTH, unlearn={**way, "strategy": IN_TURN})
    regions = [] if way.get("method") == "grad_diff" else ["localise"]
    assert [stage for stage, _ in bench.told] == [
        "original", "reference", *regions, "unlearn", *regions, "unlearn", "candidate",
    ]  # fmt: skip
    first = bench.run(examples=examples(), unlearn=way)
    assert first.state is not None and whole.log is not None and first.log is not None
    bench.start = first.state
    second = bench.run(examples=works(), unlearn=way, adapter_digest="what the first left")
    assert digest(whole) == digest(second) != digest(first)
    assert second.log is not None
    assert (whole.log.steps, whole.log.planned_steps) == (first.log.steps + second.log.steps, 8)
    assert [row["step"] for row in whole.log.losses] == list(range(1, whole.log.steps + 1))


def test_the_order_of_the_legs_counts_and_so_does_their_number(bench: Bench) -> None:
    strategies = (IN_TURN, "copyright>privacy", "privacy", "copyright", "combined")
    found = {digest(bench.run(examples=BOTH, unlearn={"strategy": strategy})) for strategy in strategies}
    assert len(found) == len(strategies)


def test_a_run_that_was_stopped_in_its_second_leg_goes_on_to_the_same_end(bench: Bench, tmp_path: Path) -> None:
    asked = {"strategy": IN_TURN}
    whole = bench.run(examples=BOTH, unlearn=asked)
    bench.store = ArtefactStore(tmp_path / "others", tmp_path / "scratch")
    thirds = iter(("first leg", "second leg"))

    def stop(progress: Progress) -> None:
        if progress.stage == "unlearn" and progress.step == 3 and next(thirds) == "second leg":
            raise Stopped

    with pytest.raises(Stopped):
        bench.run(examples=BOTH, unlearn=asked, report=stop)
    assert [stage for stage, _ in bench.told] == ["original", "reference", "localise", "unlearn", "localise"]
    steps: list[int] = []
    resumed = bench.run(
        examples=BOTH, unlearn=asked, report=lambda p: steps.append(p.step) if p.stage == "unlearn" else None
    )
    assert bench.calls["unlearn"] == 1 and "localise" not in bench.calls, "the first leg was read"
    assert min(steps) == 3, "the second went on after its checkpoint at step 2"
    same(whole, resumed)
    assert not list(bench.store.root.rglob("*.partial"))


def test_the_times_of_a_stage_are_those_of_all_its_legs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: float(next(seconds)))
    outcome = bench.run(examples=BOTH, unlearn={"strategy": IN_TURN})
    assert outcome.timings == {"original": 1, "reference": 1, "localise": 2, "unlearn": 2, "candidate": 1}


def test_the_report_shows_the_regions_of_every_leg(bench: Bench) -> None:
    outcome = bench.run(examples=BOTH, unlearn={"strategy": IN_TURN})
    assert outcome.regions is not None
    legs = [set(found["examples"]) for found in (*outcome.regions["earlier"], outcome.regions)]
    assert legs == [{f"{domain}/{side}" for side in ("forget", "retain")} for domain in ("privacy", "copyright")]
    shown = report_of(outcome, UnlearnConfig(strategy=IN_TURN))
    assert "Run 1 of 2: privacy" in shown and "Run 2 of 2: copyright" in shown


def test_a_batch_of_which_no_domain_is_named_ends_before_any_compute(bench: Bench) -> None:
    with pytest.raises(NothingNamed, match=r"the strategy copyright names none of the domains .*: privacy"):
        bench.run(unlearn={"strategy": "copyright"})
    assert (bench.told, bench.calls) == ([], {})


def test_what_is_named_but_known_to_the_base_leaves_nothing_to_unlearn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "in_base", lambda *_: frozenset({examples()[0].id}))
    outcome = bench.run(examples=BOTH, unlearn={"strategy": "privacy"})
    assert (outcome.state, outcome.verdict.ok) == (None, False)
    assert [stage for stage, _ in bench.told] == ["original", "reference"]


def test_a_leg_without_retain_data_ends_the_run_before_the_first_leg(bench: Bench) -> None:
    lonely = (*examples(), works()[0])
    with pytest.raises(NoRetainData, match="no retain item in copyright"):
        bench.run(examples=lonely, unlearn={"strategy": IN_TURN})
    assert [stage for stage, _ in bench.told] == ["original", "reference"]
    assert bench.run(examples=lonely).state is not None, "together they share what there is"
    alone = {"strategy": IN_TURN, "method": "grad_ascent", "options": {"until": 0.0}}
    assert bench.run(examples=lonely, unlearn=alone).state is not None


def test_what_stays_in_a_domain_with_nothing_to_forget_is_protected_all_the_same(bench: Bench) -> None:
    kept = works()[1:]
    assert digest(bench.run(examples=(*examples(), *kept))) != digest(bench.run(examples=examples()))


@pytest.mark.parametrize("way", [{"method": "grad_diff"}, {"method": "grad_ascent"}, {"regions": "none"}], ids=str)
def test_without_regions_there_is_no_such_stage_and_the_report_says_so(bench: Bench, way: dict[str, Any]) -> None:
    outcome = bench.run(examples=BOTH, unlearn=way)
    assert [stage for stage, _ in bench.told] == ["original", "reference", "unlearn", "candidate"]
    assert outcome.regions is None and "localise" not in outcome.timings
    assert "No regions were located in this run" in report_of(outcome, UnlearnConfig(**way))


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"method": "memflex"}, "Entries in whole tensors that were not trained at all"),
        ({"mask_rule": "frozen", "k_ur": 0.5, "k_rr": 0.5}, "Neither side changed them"),
    ],
    ids=str,
)
def test_frozen_entries_are_the_same_to_the_bit_and_others_are_not(
    bench: Bench, way: dict[str, Any], words: str
) -> None:
    outcome = bench.run(examples=BOTH, unlearn=way)
    assert outcome.state is not None and outcome.regions is not None
    key = dict(bench.told)["localise"]
    masks = bench.store.read_masks(key)
    assert masks is not None
    before, frozen, free = as_saved(bench.start), 0, 0
    for name, tensor in outcome.state.items():
        still = masks.op_ur[name] | masks.op_rr[name]
        assert torch.equal(tensor[still], before[name][still]), name
        frozen += int(still.sum())
        free += int((tensor != before[name])[~still].sum())
    assert frozen > 0 and free > 0
    assert words in report_of(outcome, UnlearnConfig(**way))


def test_general_data_are_trained_on_in_the_domains_place_and_judged_as_a_domain(bench: Bench) -> None:
    asked = {"method": "grad_diff_general"}
    outcome = bench.run(examples=(*examples(), *general()), unlearn=asked)
    scope = outcome.result.domains["general"]
    assert (scope.forget_items, set(scope.groups)) == (0, {"retain", "held_out"})
    assert {check.name for check in outcome.verdict.of("general")} == {"min_rs"}
    assert "min_cus" in {check.name for check in outcome.verdict.of("privacy")}
    shown = report_of(outcome, UnlearnConfig(**asked))
    assert "General: what is to stay scores" in shown
    assert "All figures: general" in shown and "General: 0 of" not in shown
    others = [example(90 + n, f"What {n}?", f"that {n}", Segment.RETAIN, f"s{n}") for n in range(3)]
    gone = [row for row in examples() if row.segment is Segment.FORGET]
    unseen = bench.run(examples=(*gone, *others, *general()), unlearn={**asked, "score_every_steps": 1000})
    whole = bench.run(examples=(*examples(), *general()), unlearn={**asked, "score_every_steps": 1000})
    assert digest(unseen) == digest(whole), "what stands beside the requests is scored and not trained on"


def test_a_strategy_takes_general_data_along_in_each_leg(bench: Bench) -> None:
    asked = {"method": "ascent_kl_general", "strategy": IN_TURN}
    outcome = bench.run(examples=(*BOTH, *general()), unlearn=asked)
    assert outcome.log is not None and outcome.log.steps == 8
    assert all("retain" in row for row in outcome.log.losses)


def test_general_data_that_were_erased_meanwhile_are_missed_in_plain_words(bench: Bench) -> None:
    with pytest.raises(NoRetainData, match="no retain item in general"):
        bench.run(unlearn={"method": "grad_diff_general"})
    assert "unlearn" not in bench.calls


@pytest.fixture(scope="module")
def taught(tiny_base_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with `served`, an adapter that knows every fact, and `reference`, taught what is to stay alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("taught")
    taught_adapter(tiny_base_directory, place / "served")
    torch.manual_seed(0)  # a new adapter is drawn: else what ran before in this process would decide how
    model = load_model(tiny_base_directory, None, template=TEMPLATE, precision="fp32", lora=tiny_shape(8))
    pool: list[TokenisedExample] = [model.tokenise(row) for row in examples() if row.segment is Segment.RETAIN]
    teach(model, {"privacy": pool}, UnlearnConfig(steps=60, learning_rate=1e-2, score_every_steps=1000))
    save_adapter(model.model, place / "reference")
    yield place
    torch.set_num_threads(threads)


def test_requests_of_a_domain_that_is_not_named_are_not_reported_as_forgotten(
    taught: Path, tiny_base_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tiny_base_directory, taught / "served", tmp_path / "artifacts", monkeypatch)
    outcome = bench.run(examples=BOTH, unlearn={**THOROUGH, "steps": 20, "strategy": "privacy"})
    said = {request: request_outcome(outcome.result.rows_of_request(request)) for request in ("r1", "r2")}
    assert said == {"r1": "forgotten", "r2": "not forgotten"}
    assert not outcome.verdict.ok
    failed = {(check.scope, check.name) for check in outcome.verdict.checks if not check.ok}
    assert {("copyright", "min_cus"), ("request r2", "min_request_cus")} <= failed
    assert ("request r1", "min_request_cus") not in failed


@pytest.mark.parametrize("objective", ["calibrated", "hinge"])
def test_a_reference_adapter_is_measured_by_and_shapes_what_comes_out(
    taught: Path, tiny_base_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    asked = {**THOROUGH, "objective": objective}
    off, registered = (
        led_to(reference, asked, taught, tiny_base_directory, tmp_path, monkeypatch)
        for reference in (None, "reference")
    )
    target = load_model(tiny_base_directory, taught / "reference", template=TEMPLATE, precision="fp32")
    never_knew = measure(target, [GONE], generate=False)[GONE.id]
    assert row_of(registered).reference.nll == pytest.approx(never_knew.nll, rel=1e-4)
    assert row_of(registered).reference.nll != pytest.approx(row_of(off).reference.nll, rel=1e-2)
    us_ref = registered.result.domains["privacy"].groups["forget"]["success"]["reference"].value
    assert us_ref == pytest.approx(unlearning_success(never_knew.accuracy))
    assert digest(registered) != digest(off)
    if objective == "calibrated":
        assert divergence_from(target, registered) < divergence_from(target, off)


@pytest.mark.parametrize("objective", ["calibrated", "hinge"])
def test_forgetting_goes_as_far_as_the_reference_adapter_and_not_to_the_base(
    taught: Path, tiny_base_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Were a reference registered that knows the fact, it would stay known: it is the target, not adapter-off."""
    asked = {**THOROUGH, "objective": objective}
    monkeypatch.setattr(pipeline, "in_base", lambda *_: frozenset())
    off, knowing = (
        led_to(reference, asked, taught, tiny_base_directory, tmp_path, monkeypatch) for reference in (None, "served")
    )
    assert row_of(off).before.nll < 0.1 and row_of(off).after.nll > 2.0
    assert row_of(knowing).after.nll < 0.5


GONE = examples()[0]


def led_to(
    reference: str | None, asked: dict[str, Any], taught: Path, base: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> Outcome:
    """A run of the served adapter against a reference adapter of that name, or adapter-off."""
    with monkeypatch.context() as patch:
        at = taught / reference if reference else None
        bench = make_bench(base, taught / "served", place / str(reference), patch, reference=at)
        return bench.run(unlearn={**asked, "score_every_steps": 40})


def row_of(outcome: Outcome) -> Row:
    return next(row for row in outcome.result.rows if row.example.id == GONE.id)


def divergence_from(target: LoadedModel, outcome: Outcome) -> float:
    """Mean KL(target || candidate) on what is to go: what `calibrated` minimises, seen from the target's side."""
    assert outcome.state is not None
    batch = pad([target.tokenise(GONE)], target.pad_id, target.device)
    with torch.no_grad():
        wanted = torch.log_softmax(completion_logits(target, batch), dim=-1)
        with with_adapter(target.model, outcome.state):
            found = torch.log_softmax(completion_logits(target, batch), dim=-1)
    return float((wanted.exp() * (wanted - found)).sum(dim=-1).mean())
