"""What memory a job takes at least is noted when it is made, from the plan's formulas."""

from __future__ import annotations

from app.batches import service
from tests.app.batches.served import NOW
from tests.fixtures.served import question


def test_a_job_needs_what_its_largest_stage_takes_in_the_leanest_way(served):
    served.model()
    served.ask(1, retain=[2])
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW)
    needed = served.job(served.run_now()).needed_bytes
    assert needed is not None and preview.estimate is not None
    assert 450_000_000 < needed <= preview.estimate.bytes


def test_a_longer_text_needs_more(served):
    needed = []
    for name, words in (("short", 1), ("long", 40)):
        served.model(name)
        served.ask(served_model=name, forget=[{**question(1), "completion": "place " * words}], retain=[2])
        needed.append(served.job(served.plan(NOW.replace(year=2027))[0]).needed_bytes)
    assert needed[0] < needed[1]


def test_without_readable_sizes_or_a_tokeniser_the_job_is_made_all_the_same(served, tmp_path):
    served.model()
    served.ask(1, retain=[2])
    (tmp_path / "base" / "tokenizer.json").unlink()
    assert served.job(served.run_now()).needed_bytes is None
