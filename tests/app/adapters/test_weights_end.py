"""Weights of superseded and rejected versions go after their window, and nothing that somebody needs does."""

from __future__ import annotations

import json
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.adapters import ending, weights_repository
from app.adapters.files import CONFIG, MANIFEST, WEIGHTS
from app.backup import service as backup
from app.db import transaction
from app.orphans import service as orphans
from app.retention import service as retention
from app.served_models import service as served_models
from app.tables import Adapter, Audit, Job, ServedModel
from tests.app.service import BAD, Floor, slug

NOW = datetime.now(UTC)
WHY = "the new version answers nonsense in production"


def path_of(version: int, rest: str = "") -> str:
    return f"/v1/models/people/adapters/{version}{rest}"


def row(floor: Floor, version: int) -> Adapter:
    with floor.db.session_factory() as session:
        return session.scalars(select(Adapter).where(Adapter.version == version)).one()


def age(floor: Floor, days: float = 31) -> None:
    """As if all that has happened had happened so long ago."""
    past = timedelta(days=days)
    with transaction(floor.db) as session:
        session.execute(update(Adapter).values(
            superseded_at=Adapter.superseded_at - past, created_at=Adapter.created_at - past,
        ))  # fmt: skip
        session.execute(update(Job).values(finished_at=Job.finished_at - past))


def sweep(floor: Floor) -> int:
    return retention.remove(floor.db, floor.settings, "weights")


def files(floor: Floor, version: int) -> set[str]:
    return {path.name for path in Path(row(floor, version).directory).iterdir()}


def without(floor: Floor) -> list[int]:
    """Versions whose weights the API says were destroyed."""
    items = floor.caller.call("requester", "GET", "/v1/models/people/adapters")["items"]
    return sorted(item["version"] for item in items if item["weights_destroyed_at"])


def leaves(floor: Floor) -> list[dict[str, Any]]:
    with floor.db.session_factory() as session:
        found = session.scalars(
            select(Audit.leaf).where(Audit.event == "adapter.weights_destroyed").order_by(Audit.id)
        ).all()
    return [json.loads(leaf) for leaf in found]


@pytest.fixture
def two(floor: Floor) -> Floor:
    """Version 1 is superseded by version 2."""
    floor.ask(1)
    floor.work()
    return floor


def test_weights_go_after_the_window_and_not_before(two: Floor) -> None:
    age(two, 29)
    assert sweep(two) == 0
    assert files(two, 1) == {CONFIG, MANIFEST, WEIGHTS}
    age(two, 2)
    assert sweep(two) == 1
    assert (files(two, 1), files(two, 2)) == ({CONFIG, MANIFEST}, {CONFIG, MANIFEST, WEIGHTS})
    assert without(two) == [1]
    (leaf,) = leaves(two)
    assert leaf["subject_id"] == str(row(two, 1).id)
    assert leaf["fields"] == {
        "digest": row(two, 1).digest, "state": "superseded", "version": 1, "served_model_id": str(two.model().id),
    }  # fmt: skip
    assert sweep(two) == 0
    assert len(leaves(two)) == 1
    shown = two.caller.call("officer", "GET", path_of(1))
    assert shown["manifest"]["digest"] == shown["digest"] == row(two, 1).digest


def test_the_policy_says_how_long(floor: Floor) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"superseded_weights_days": 3}})
    floor.ask(1)
    floor.work()
    age(floor, 2)
    assert sweep(floor) == 0
    age(floor, 2)
    assert sweep(floor) == 1


def test_a_policy_from_before_there_were_days_means_thirty(two: Floor) -> None:
    with transaction(two.db) as session:
        model = session.scalars(select(ServedModel)).one()
        model.policy = {key: value for key, value in model.policy.items() if key != "superseded_weights_days"}
    age(two, 29)
    assert sweep(two) == 0
    age(two, 2)
    assert sweep(two) == 1


def test_a_rejected_candidates_weights_go_after_the_window_from_its_jobs_end(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.work(BAD)
    with transaction(floor.db) as session:  # made long ago, and rejected only now
        session.execute(update(Adapter).values(created_at=NOW - timedelta(days=400)))
    assert sweep(floor) == 0
    with transaction(floor.db) as session:
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=NOW - timedelta(days=31)))
    assert sweep(floor) == 1
    assert without(floor) == [2]
    assert files(floor, 1) >= {WEIGHTS}


def test_an_active_version_keeps_its_weights_though_it_is_superseded(two: Floor) -> None:
    two.caller.call("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    age(two)
    assert sweep(two) == 0
    assert without(two) == []
    two.caller.call("operator", "POST", path_of(2, "/activate"), json={"reason": "mended"})
    assert sweep(two) == 1


def test_a_version_that_an_open_job_starts_from_keeps_its_weights(two: Floor) -> None:
    two.caller.call("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    two.ask(2)
    job_id = two.order()
    token = two.claim(job_id)
    assert token
    with transaction(two.db) as session:  # the alias alone is not what protects it
        session.execute(update(ServedModel).values(active_adapter_id=row(two, 2).id))
    age(two)
    assert sweep(two) == 0
    with transaction(two.db) as session:
        session.execute(update(ServedModel).values(active_adapter_id=row(two, 1).id))
    two.evaluate(job_id, token)
    two.conclude(job_id)
    age(two)
    assert sweep(two) == 2
    assert without(two) == [1, 2]


def test_a_version_that_serves_as_reference_keeps_its_weights(two: Floor) -> None:
    with transaction(two.db) as session:
        session.execute(update(ServedModel).values(reference_adapter_path=str(Path(row(two, 1).directory).resolve())))
    age(two)
    assert sweep(two) == 0
    with transaction(two.db) as session:
        session.execute(update(ServedModel).values(reference_adapter_path=None))
    assert sweep(two) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_the_database_itself_dooms_nothing_that_is_published(two: Floor, version: int) -> None:
    from sqlalchemy.exc import IntegrityError

    statement = update(Adapter).where(Adapter.version == version).values(weights_doomed_at=NOW)
    if version == 1:
        with transaction(two.db) as session:
            session.execute(statement)
        return
    with pytest.raises(IntegrityError, match="keeps_its_weights"), transaction(two.db) as session:
        session.execute(statement)


def test_what_was_destroyed_is_neither_handed_out_nor_activated_by_anybody(two: Floor) -> None:
    age(two)
    sweep(two)
    for role in ("requester", "operator", "officer", "admin"):
        answer = two.caller.send(role, "GET", path_of(1, "/download"), params={"reason": WHY})
        assert (answer.status_code, slug(answer)) == (410, "weights-destroyed")
    assert "superseded" in answer.json()["detail"] and "active version" in answer.json()["mend"]
    found = two.caller.refused("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    assert found == (410, "weights-destroyed")
    assert two.versions() == [(2, "published", True), (1, "superseded", False)]


def test_from_the_promise_on_nobody_is_given_the_weights(two: Floor) -> None:
    age(two)
    with transaction(two.db) as session:
        assert ending.doom(session, NOW, 10) == 1
    assert files(two, 1) >= {WEIGHTS}
    answer = two.caller.refused("officer", "GET", path_of(1, "/download"), params={"reason": WHY})
    assert answer == (410, "weights-destroyed")
    assert leaves(two) == []


def test_killed_after_the_promise_or_after_the_deed_the_next_sweep_goes_on(two: Floor) -> None:
    age(two)
    with transaction(two.db) as session:
        ending.doom(session, NOW, 10)

    class Killed(BaseException):
        pass

    with pytest.raises(Killed), transaction(two.db) as session:
        assert ending.destroy(session, NOW, 10) == 1
        raise Killed  # the file is gone, and nothing of it is written
    assert files(two, 1) == {CONFIG, MANIFEST}
    assert (row(two, 1).weights_destroyed_at, leaves(two)) == (None, [])
    with two.db.session_factory() as session:
        assert backup.check(session, two.settings).whole, "half way is no damage"
    assert sweep(two) == 1
    assert row(two, 1).weights_destroyed_at is not None
    assert len(leaves(two)) == 1


def test_a_file_that_can_not_be_removed_stops_no_other(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        floor.ask(number)
        floor.work()
    age(floor)
    remove, stuck = ending.destroy_weights, Path(row(floor, 1).directory)

    def refuse(directory: Path) -> None:
        if directory == stuck:
            raise PermissionError("read-only")
        remove(directory)

    monkeypatch.setattr(ending, "destroy_weights", refuse)
    assert sweep(floor) == 1
    assert (row(floor, 1).weights_destroyed_at, files(floor, 2)) == (None, {CONFIG, MANIFEST})
    monkeypatch.undo()
    assert sweep(floor) == 1
    assert files(floor, 1) == {CONFIG, MANIFEST}


def test_an_activation_and_the_promise_do_not_pass_each_other(two: Floor) -> None:
    """Found over, then activated before the model is held: it is looked for again."""
    age(two)
    with transaction(two.db) as session:
        model_id = weights_repository.model_with_some_over(session, NOW)
        assert model_id == two.model().id
    two.caller.call("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    with transaction(two.db) as session:
        assert weights_repository.over_of(session, model_id, NOW, 10) == []


def test_backups_orphans_and_doctor_do_not_take_destroyed_weights_for_damage(two: Floor) -> None:
    age(two)
    weights = Path(row(two, 1).directory) / WEIGHTS
    kept = weights.read_bytes()
    sweep(two)

    def checked() -> backup.Checked:
        with two.db.session_factory() as session:
            return backup.check(session, two.settings)

    found = checked()
    assert (found.whole, found.versions, found.without_weights, found.orphans) == (True, 2, 1, [])
    assert orphans.remove(two.db, two.settings) == []
    with two.db.session_factory() as session:
        assert served_models.without_files(session) == ([], 1)
    weights.write_bytes(kept)  # as a backup from before brings it
    assert checked().orphans == [f"weights of {row(two, 1).name}"]
    assert orphans.remove(two.db, two.settings) == [weights]
    assert not weights.exists()
    (weights.parent / MANIFEST).write_text("{}")
    assert checked().damaged == [f"version {row(two, 1).name}"]


def test_a_backup_whose_files_are_younger_than_its_database_is_whole(two: Floor) -> None:
    """The dump came first: in it nothing is destroyed yet, and the file is gone."""
    age(two)
    (Path(row(two, 1).directory) / WEIGHTS).unlink()
    with two.db.session_factory() as session:
        assert backup.check(session, two.settings).whole
    (Path(row(two, 2).directory) / WEIGHTS).unlink()
    with two.db.session_factory() as session:
        assert backup.check(session, two.settings).damaged == [f"version {row(two, 2).name}"]


@pytest.mark.parametrize("as_reference", [False, True])
def test_a_superseded_versions_directory_is_not_registered_under_another_name(two: Floor, as_reference: bool) -> None:
    old, new = Path(row(two, 1).directory), Path(row(two, 2).directory)
    asked = two.registration("other") | (
        {"reference_adapter_path": str(old)} if as_reference else {"adapter_path": str(old)}
    )
    answer = two.caller.send("operator", "POST", "/v1/models", json=asked)
    assert (answer.status_code, slug(answer)) == (422, "path-refused")
    assert "superseded" in answer.json()["detail"]
    shutil.rmtree(two.directory / "copy", ignore_errors=True)
    two.caller.call("operator", "POST", "/v1/models", 201, json=two.registration("other", adapter_path=str(new)))
    assert uuid.UUID(str(row(two, 2).id))
