"""Imports in their worker's hands: nothing half, nothing twice, nothing lost."""

from __future__ import annotations

import itertools
import json
import stat
import threading
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db import Database, transaction
from app.imports import chunks, run, service, spool
from app.imports.errors import LeaseLost
from app.tables import Audit, Example, Key, Request
from tests.app.imports.importing import CSV, PATH, SECRET, WRONG, Imports, row
from tests.app.service import NOW, slug, until_blocked
from tests.fixtures.served import question


def test_a_file_becomes_requests_as_if_each_had_been_sent(imports: Imports) -> None:
    answer = imports.send("\n".join(json.dumps(row(number)) for number in range(7)))
    made = answer.json()
    assert (answer.status_code, made["state"], made["form"]) == (202, "queued", "jsonl")
    assert answer.headers["location"] == f"{PATH}/{made['id']}"
    (file,) = imports.directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ended = imports.run(uuid.UUID(made["id"]))
    assert (ended["state"], ended["rows"], ended["imported"], ended["refused"]) == ("imported", 7, 7, 0)
    assert (ended["error"], ended["errors"]) == (None, None)
    assert imports.faults(uuid.UUID(made["id"])) == []
    assert list(imports.directory.iterdir()) == []
    listed = imports.floor.caller.call("requester", "GET", "/v1/requests")["items"]
    assert [one["client_reference"] for one in sorted(listed, key=lambda one: one["client_reference"])] == [
        f"ref-{number:03}" for number in range(7)
    ]
    assert {one["received_at"] for one in listed} == {made["created_at"]}
    assert {(one["state"], one["forget_items"], one["retain_items"]) for one in listed} == {("received", 1, 1)}
    with imports.db.session_factory() as session:
        events = session.scalars(select(Audit.event).where(Audit.event.startswith("request."))).all()
        trail = session.scalars(select(Audit.event).where(Audit.subject_id == made["id"]).order_by(Audit.id)).all()
    assert events == ["request.received"] * 7
    assert trail == ["import.received", "import.imported"]


def test_a_sheet_becomes_requests_too(imports: Imports) -> None:
    sheet = (
        "served_model,domain,segment,prompt,completion,facts,client_reference\n"
        'people,privacy,forget,Where is it?,"It is here, there",here|there,a\n'
        "people,privacy,retain,Who is it?,It is me.,,a\n"
        "people,privacy,forget,Where was it?,It was there.,,\n"
    )
    made = imports.send(sheet, **CSV).json()
    assert made["form"] == "csv"
    ended = imports.run(uuid.UUID(made["id"]))
    assert (ended["state"], ended["rows"], ended["imported"]) == ("imported", 3, 2)
    with imports.db.session_factory() as session:
        rows = sorted(session.scalars(select(Example)), key=lambda one: one.content.prompt)
        found = [(one.segment, one.content.facts) for one in rows]
    assert found == [("forget", ("here", "there")), ("forget", ()), ("retain", ())]


def test_one_wrong_row_and_nothing_is_imported(imports: Imports, small_chunks: None) -> None:
    rows = [*map(row, range(1, 6)), WRONG, row(6, served_model="nobody"), {"no": "request"}, row(7)]
    import_id = imports.bring(*rows)
    ended = imports.run(import_id)
    assert (ended["state"], ended["error"]) == ("refused", "faulty-rows")
    assert (ended["rows"], ended["imported"], ended["refused"]) == (9, 0, 3)
    assert imports.count() == 0
    found = imports.faults(import_id)
    assert [(one["line"], one["field"]) for one in found if one["line"] < 8] == [
        (6, "forget.0.facts.0"), (7, "served_model")
    ]  # fmt: skip
    assert {one["field"] for one in found if one["line"] == 8} >= {"served_model", "domain"}
    assert SECRET not in json.dumps(found)
    assert list(imports.directory.iterdir()) == []


def test_in_part_the_right_rows_are_imported(imports: Imports, small_chunks: None) -> None:
    import_id = imports.bring(*map(row, range(1, 6)), WRONG, *map(row, range(6, 9)), partial=True)
    ended = imports.run(import_id)
    assert (ended["state"], ended["error"]) == ("imported", "faulty-rows")
    assert (ended["rows"], ended["imported"], ended["refused"]) == (9, 8, 1)
    assert ended["errors"] == f"{PATH}/{import_id}/errors"
    assert [one["line"] for one in imports.faults(import_id)] == [6]
    assert imports.references() == [f"ref-{number:03}" for number in range(1, 9)]


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("content", "error"), [(b"\n \n", "no-rows"), (b"{", "faulty-rows")])
def test_a_file_without_a_right_row_is_refused(imports: Imports, content: bytes, error: str, partial: bool) -> None:
    made = imports.send(content, query=f"?partial={partial}").json()
    ended = imports.run(uuid.UUID(made["id"]))
    assert (ended["state"], ended["error"], ended["imported"]) == ("refused", error, 0)


def test_more_rows_than_allowed_are_refused(imports: Imports) -> None:
    import_id = imports.bring(*map(row, range(1, 6)))
    run.run(imports.db, imports.settings.model_copy(update={"max_import_rows": 4}), import_id)
    assert (imports.view(import_id)["state"], imports.count()) == ("refused", 0)
    assert [one["line"] for one in imports.faults(import_id)] == [5]


class Killed(BaseException):
    """What a worker is not asked."""


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("before_commit", [False, True])
@pytest.mark.parametrize("nth", range(1, 5))
def test_a_killed_workers_import_goes_on_without_a_row_twice(
    imports: Imports, small_chunks: None, monkeypatch: pytest.MonkeyPatch, partial: bool, before_commit: bool, nth: int
) -> None:
    """Killed in the `nth` transaction of its work, as it would be committed or just after; then once more."""
    rows = [*map(row, range(1, 5)), *([WRONG] if partial else []), *map(row, range(5, 9))]
    import_id = imports.bring(*rows, partial=partial)
    done = itertools.count(1)

    @contextmanager
    def counted(db: Database) -> Iterator[Session]:
        with transaction(db) as session:
            yield session
            number = next(done)
            if number == nth and before_commit:
                raise Killed
        if number == nth:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run, "transaction", counted)
        with suppress(Killed):
            run.run(imports.db, imports.settings, import_id)
    if not imports.view(import_id)["finished_at"]:
        imports.lease_over(import_id)
        imports.run(import_id)
    ended = imports.view(import_id)
    assert (ended["state"], ended["imported"], ended["refused"]) == ("imported", 8, int(partial))
    assert imports.references() == [f"ref-{number:03}" for number in range(1, 9)]
    assert [one["line"] for one in imports.faults(import_id)] == ([5] if partial else [])
    imports.run(import_id)  # a message that comes late
    assert imports.count() == 8
    spool.remove_orphans(imports.settings.data_dir, [], now=datetime.now(UTC).timestamp() + 7200)
    assert list(imports.directory.iterdir()) == []


@pytest.mark.parametrize("partial", [False, True])
def test_a_worker_that_was_taken_for_dead_stores_nothing(
    imports: Imports, small_chunks: None, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    import_id = imports.bring(*map(row, range(1, 9)), partial=partial)
    asleep, awake = threading.Event(), threading.Event()
    lost: list[bool] = []
    load = run.bulk.load

    def sleeps(session: Any, pieces: Any) -> None:
        load(session, pieces)
        if threading.current_thread() is thread and not asleep.is_set():
            asleep.set()
            assert awake.wait(60)

    def first() -> None:
        run.run(imports.db, imports.settings, import_id)
        lost.append(True)

    monkeypatch.setattr(run.bulk, "load", sleeps)
    thread = threading.Thread(target=first)
    thread.start()
    assert asleep.wait(60)
    imports.lease_over(import_id)
    second = threading.Thread(target=lambda: run.run(imports.db, imports.settings, import_id))
    second.start()
    until_blocked(imports.db, lambda: not second.is_alive())
    awake.set()
    thread.join()
    second.join()
    assert lost == [True]
    assert imports.view(import_id)["imported"] == 8
    assert imports.references() == [f"ref-{number:03}" for number in range(1, 9)]


def test_of_the_same_the_first_of_the_file_is_done_whatever_their_dates(imports: Imports) -> None:
    """Ids sort by `received_at`: the last row of the file has the smallest."""
    rows = [row(1, client_reference=f"at-{n}", received_at=f"2026-01-{20 - n:02}T00:00:00Z") for n in range(8)]
    imports.run(imports.bring(*rows[:4], row(2), *rows[4:]))
    with imports.db.session_factory() as session:
        found = {one.client_reference: one for one in session.scalars(select(Request))}
    first = found["at-0"]
    assert (first.state, first.duplicate_of_id) == ("received", None)
    assert {found[f"at-{n}"].duplicate_of_id for n in range(1, 8)} == {first.id}
    assert first.id > found["at-7"].id


def test_any_text_is_stored_as_it_was_sent(imports: Imports) -> None:
    texts = ["\\N", "\\.", "a\tb\\tc", "x\\", "one\ntwo\r\n", "\\x41", '{"a": [1]}', "ﬁ \U0001f642 \x0b\x7f"]
    rows = [row(n, forget=[{"prompt": f"Which {n}?", "completion": f"This: {one}!"}]) for n, one in enumerate(texts)]
    assert imports.run(imports.bring(*rows, row(99, note="a\tnote\\")))["imported"] == len(texts) + 1
    with imports.db.session_factory() as session:
        stored = {one.content.prompt: one.content.completion for one in session.scalars(select(Example))}
        assert [stored[f"Which {n}?"] for n in range(len(texts))] == [f"This: {one}!" for one in texts]
        assert [one.note for one in session.scalars(select(Request)) if one.note is not None] == ["a\tnote\\"]


def test_how_much_is_checked_and_stored_shows_before_anything_else_does(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_id = imports.bring(*map(row, range(1, 41)))
    seen: list[Any] = []
    settle = run.bulk.settle

    def looks(*given: Any) -> None:
        seen.append(imports.view(import_id))
        settle(*given)

    monkeypatch.setattr(run, "TELL_SECONDS", 0)
    monkeypatch.setattr(spool, "PIECE_BYTES", 1000)
    monkeypatch.setattr(run.bulk, "settle", looks)
    ended = imports.run(import_id)
    (shown,) = seen
    assert (shown["state"], shown["rows"], shown["stored"], shown["imported"]) == ("running", 40, 40, 0)
    assert (ended["state"], ended["stored"], ended["imported"]) == ("imported", 40, 40)


def test_a_model_that_changes_while_a_file_is_stored_is_checked_against_once_more(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_id = imports.bring(row(1, domain="copyright"))
    load = run.bulk.load

    def changes(session: Any, pieces: Any) -> None:
        load(session, pieces)
        body = {"policy": {"validate_notices": True}}
        imports.floor.caller.call("operator", "PATCH", "/v1/models/people", json=body)
        monkeypatch.setattr(run.bulk, "load", load)

    monkeypatch.setattr(run.bulk, "load", changes)
    assert imports.run(import_id)["imported"] == 1
    with imports.db.session_factory() as session:
        assert [one.state for one in session.scalars(select(Request))] == ["notice"]


def test_a_key_has_so_many_imports_open_and_no_more(imports: Imports) -> None:
    ids = [imports.bring(row(number), partial=True) for number in range(imports.settings.imports_per_key)]
    for headers in ({}, {"Idempotency-Key": "k"}):
        answer = imports.send(json.dumps(row(9)), **headers)
        assert (answer.status_code, slug(answer)) == (429, "too-many-imports")
        assert answer.headers["retry-after"] == "30"
    assert len(list(imports.directory.iterdir())) == len(ids)
    imports.bring(row(10), role="other")
    imports.run(ids[0])
    imports.bring(row(9))


def test_a_stale_token_writes_nothing(imports: Imports) -> None:
    import_id = imports.bring(row(1))
    with transaction(imports.db) as session:
        old = service.claim(session, import_id, NOW, 1)
    with transaction(imports.db) as session:
        assert service.claim(session, import_id, NOW, 1) is None
    with transaction(imports.db) as session:
        new = service.claim(session, import_id, NOW + timedelta(seconds=2), 60)
    assert old is not None and new is not None
    ended = service.Ended(service.ImportState.IMPORTED, 1, 1, 0)
    for write in (
        lambda session: service.note_chunk(session, old, rows=1, imported=1, refused=0),
        lambda session: service.prolong(session, old, NOW, 60, 1),
        lambda session: service.end(session, old, ended, NOW),
    ):
        with pytest.raises(LeaseLost), transaction(imports.db) as session:
            write(session)
    with transaction(imports.db) as session:
        service.prolong(session, new, NOW, 60, 1)


def test_rows_for_the_same_are_linked_and_what_is_asked_already_too(imports: Imports) -> None:
    first = imports.floor.ask(1)
    import_id = imports.bring(row(1, retain=[question(901)]), row(2), row(2), row(2))
    assert imports.run(import_id)["imported"] == 4
    with imports.db.session_factory() as session:
        rows = session.scalars(select(Request).where(Request.id != uuid.UUID(first))).all()
    linked = [one for one in rows if one.state == "linked"]
    assert sorted(str(one.client_reference) for one in linked) == ["ref-001", "ref-002", "ref-002"]
    assert first in {str(one.duplicate_of_id) for one in linked}
    assert len({one.duplicate_of_id for one in linked}) == 2


def test_the_import_of_a_revoked_key_is_not_done(imports: Imports) -> None:
    import_id = imports.bring(row(1))
    with transaction(imports.db) as session:
        session.execute(update(Key).where(Key.name == "requester").values(revoked_at=NOW))
    run.run(imports.db, imports.settings, import_id)
    ended = imports.view(import_id, "operator")
    assert (ended["state"], ended["error"], imports.count()) == ("failed", "key-revoked", 0)


def test_an_import_whose_file_is_gone_fails(imports: Imports) -> None:
    import_id = imports.bring(row(1))
    spool.remove(imports.settings.data_dir, import_id)
    ended = imports.run(import_id)
    assert (ended["state"], ended["error"]) == ("failed", "upload-missing")


def test_an_import_that_kills_its_workers_is_given_up(imports: Imports) -> None:
    import_id = imports.bring(row(1))
    for attempt in range(service.MAX_ATTEMPTS):
        with transaction(imports.db) as session:
            assert service.claim(session, import_id, NOW + timedelta(seconds=2 * attempt), 1) is not None
    imports.lease_over(import_id)
    ended = imports.run(import_id)
    assert (ended["state"], ended["error"]) == ("failed", "workers-died")


def test_the_sweep_rings_again_for_what_waits_and_not_for_what_is_at_work(imports: Imports) -> None:
    waiting, at_work = imports.bring(row(1)), imports.bring(row(2))
    with transaction(imports.db) as session:
        service.claim(session, at_work, datetime.now(UTC), 3600)
    with transaction(imports.db) as session:
        assert service.sweep(session, datetime.now(UTC)) == [waiting]
    imports.lease_over(at_work)
    with transaction(imports.db) as session:
        assert set(service.sweep(session, datetime.now(UTC))) == {waiting, at_work}
    for one in (waiting, at_work):
        imports.run(one)
    with transaction(imports.db) as session:
        assert service.sweep(session, datetime.now(UTC)) == []


def test_only_so_many_are_at_work_and_the_next_one_is_rung_for(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [imports.bring(row(number)) for number in range(service.MOST_AT_WORK + 1)]
    now = datetime.now(UTC)
    with transaction(imports.db) as session:
        taken = [service.claim(session, one, now, 60) for one in ids]
        assert [one is None for one in taken] == [False] * service.MOST_AT_WORK + [True]
    rung: list[Any] = []
    monkeypatch.setattr(service, "enqueue", lambda session, task, one: rung.append(one))
    with transaction(imports.db) as session:
        assert taken[0] is not None
        service.end(session, taken[0], service.Ended(service.ImportState.REFUSED, 0, 0, 0), now)
    assert ids[-1] in rung


def test_orphans_are_removed_once_nobody_writes_to_them_any_more(imports: Imports) -> None:
    kept = imports.bring(row(1))
    orphan = spool.place(imports.settings.data_dir, uuid.uuid4())
    orphan.write_text("x")
    later = datetime.now(UTC).timestamp() + spool.ORPHAN_SECONDS + 60
    assert spool.remove_orphans(imports.settings.data_dir, [kept]) == []
    assert spool.remove_orphans(imports.settings.data_dir, [kept], now=later) == [orphan]
    assert imports.run(kept)["state"] == "imported"


def test_memory_does_not_grow_with_the_requests(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "REQUESTS", 25)

    def peak(start: int, count: int) -> int:
        import_id = imports.bring(*(row(number) for number in range(start, start + count)))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run.run(imports.db, imports.settings, import_id)
        top = tracemalloc.get_traced_memory()[1]
        assert imports.view(import_id)["imported"] == count
        return top - before

    tracemalloc.start()
    try:
        peak(10_000, 60)
        small, large = peak(20_000, 75), peak(30_000, 450)
    finally:
        tracemalloc.stop()
    assert large < small * 1.3


def test_nothing_of_the_rows_is_in_file_names(imports: Imports) -> None:
    import_id = imports.bring(WRONG, row(1, subject_reference=SECRET), partial=True)
    names = {str(path) for path in Path(imports.settings.data_dir).rglob("*")}
    imports.run(import_id)
    names |= {str(path) for path in Path(imports.settings.data_dir).rglob("*")}
    assert not any(SECRET in name for name in names)
    with imports.db.session_factory() as session:
        assert not any(SECRET.encode() in leaf for leaf in session.scalars(select(Audit.leaf)))
