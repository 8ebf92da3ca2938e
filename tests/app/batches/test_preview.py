"""A dry run foretells what would be batched and what it would cost, and writes nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.batches import service
from app.lifecycle import RequestState
from app.requests.errors import UnknownServedModel
from app.tables import (
    Audit,
    Batch,
    BatchReason,
)
from tests.app.batches.served import LATER, NOW
from tests.fixtures.served import question


def test_a_preview_writes_nothing_and_foretells_the_batch(served, sent):
    model = served.model()
    served.stand(model, "ann", 10, 11, 12)
    probe = {"kind": "paraphrase", "prompt": "Thing 1 is where?", "completion": "In place 1."}
    first = served.ask(forget=[question(1, probes=[probe])], retain=[2])
    second = served.ask(3, now=NOW + timedelta(seconds=1))
    events = served.count(Audit)
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW, flop_per_second=1e6)
        assert not session.dirty
        session.rollback()
    assert preview.would_batch == [first, second]
    # 2 of 3 standing rows (3 wanted: 1.5 per forget item, less the 1 of the requests' own), and that one.
    assert (preview.forget_items, preview.retain_items) == (2, 3)
    # Template and question "Q : Where is thing 1 ? A :" 9, answer "Thing 1 is in place 1 ." 7, end 1; probe 9 + 4 + 1.
    assert preview.tokens == 5 * 17 + 14
    assert preview.estimate is not None
    assert preview.estimate.seconds == pytest.approx(sum(preview.estimate.stages.values()))
    assert (preview.reason, preview.due_to_close, preview.obstacle) == (BatchReason.MANUAL, None, None)
    assert (served.count(Batch), served.count(Audit), sent) == (0, events, [])
    assert served.state(first) is RequestState.RECEIVED
    job_id = served.run_now()
    assert served.members(job_id) == {first, second}
    assert len(served.drawn(job_id)) == 2


def test_a_preview_says_what_stands_in_the_way(served):
    served.model()

    def preview(now=NOW):
        with served.db.session_factory() as session:
            return service.preview(session, "people", now)

    nothing = preview()
    assert (nothing.would_batch, nothing.reason, nothing.estimate, nothing.tokens) == ([], None, None, 0)
    assert "received or queued" in nothing.obstacle
    served.ask(1)
    assert "retain item" in preview().obstacle
    assert preview(LATER).due_to_close is BatchReason.AGE
    served.ask(2, retain=[3])
    served.run_now()
    served.ask(4)
    assert "is queued" in preview().obstacle
    with served.db.session_factory() as session, pytest.raises(UnknownServedModel):
        service.preview(session, "nobody", NOW)


def test_without_readable_sizes_a_preview_gives_no_estimate(served, tmp_path):
    served.model()
    served.ask(1, retain=[2])
    (tmp_path / "base" / "config.json").write_text("[]")
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW)
    assert preview.estimate is None
    assert preview.tokens == 34


def test_a_strategy_that_passes_over_all_of_it_is_an_obstacle(served):
    served.model(unlearn={"strategy": "copyright"})
    served.ask(1, retain=[2])
    with served.db.session_factory() as session:
        said = service.preview(session, "people", NOW).obstacle
    assert "strategy copyright names none" in said and "combined" in said
    served.ask(3, domain="copyright", retain=[4])
    with served.db.session_factory() as session:
        assert service.preview(session, "people", NOW).obstacle is None
