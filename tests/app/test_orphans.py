"""Files of processes that died are removed; nothing that a row names, or that somebody may still name, is."""

from __future__ import annotations

import os
import time
from pathlib import Path

from app.adapters.files import MANIFEST, write_version
from app.orphans import service as orphans
from app.storage import FileStore
from tests.app import weights
from tests.app.service import Floor

HOUR = orphans.ORPHAN_SECONDS


def aged(path: Path, seconds: float = 2 * HOUR) -> Path:
    """The same, as if nobody had touched it for so long."""
    then = time.time() - seconds
    for inner in (*path.rglob("*"), path):
        os.utime(inner, (then, then))
    return path


def stray(floor: Floor, model: str = "people", fill: bytes = b"\x11") -> Path:
    """A whole version that no row names, as a worker leaves it that is killed before it hands in."""
    source = weights.adapter(floor.directory / f"stray-{model}", fill=fill)
    return write_version(
        source, floor.settings.adapters_dir, model_name=model, version=2, base_model_digest="ab" * 32, parent=None
    ).directory


def artefact(floor: Floor, name: str, *, directory: bool = False) -> Path:
    path = floor.settings.artifacts_dir / "ab" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if directory:
        path.mkdir()
        (path / "resume.safetensors").write_bytes(b"checkpoint")
    else:
        path.write_bytes(b"half")
    return path


def swept(floor: Floor) -> set[Path]:
    return set(orphans.remove(floor.db, floor.settings))


def test_a_version_that_no_row_names_is_removed_and_the_others_stay(floor: Floor) -> None:
    floor.ask(1)
    floor.work()
    of_no_model = stray(floor, "nobody")
    doomed = {aged(of_no_model), aged(stray(floor))}
    kept = {aged(path) for path in floor.settings.adapters_dir.iterdir()} - doomed
    assert len(kept) == 2, "the registered version and the published one"
    assert swept(floor) == doomed
    assert set(floor.settings.adapters_dir.iterdir()) == kept
    assert all((path / MANIFEST).is_file() for path in kept)


def test_a_version_is_left_alone_while_a_job_of_its_model_is_at_work(floor: Floor) -> None:
    """Its worker may be about to register it."""
    written = aged(stray(floor))
    floor.ask(1)
    job_id = floor.order()
    token = floor.claim(job_id)
    assert token is not None
    assert swept(floor) == set()
    assert written.is_dir()
    floor.evaluate(job_id, token, candidate=False)
    floor.conclude(job_id)
    assert swept(floor) == {written}


def test_what_was_written_a_moment_ago_is_left_alone(floor: Floor) -> None:
    there = [stray(floor), artefact(floor, f".{'0' * 64}.json.17"), artefact(floor, "1" * 64)]
    there.append(artefact(floor, f"{'2' * 64}.partial", directory=True))
    assert swept(floor) == set()
    assert all(path.exists() for path in there)


def test_half_written_files_and_checkpoints_go_once_no_job_that_is_older_is_open(floor: Floor) -> None:
    hidden = floor.settings.adapters_dir / ".candidate-x"
    hidden.mkdir()
    doomed = {
        aged(hidden), aged(artefact(floor, f".{'0' * 64}.json.17")),
        aged(artefact(floor, f"{'2' * 64}.partial", directory=True)),
    }  # fmt: skip
    floor.ask(1)
    job_id = floor.order()
    with floor.db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE job SET created_at = now() - interval '1 day'")
    assert swept(floor) == set(), "the job may go on from the checkpoint"
    floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert swept(floor) == doomed
    assert not any(path.exists() for path in doomed)


def test_a_report_whose_row_never_came_goes_and_reports_and_artefacts_of_stages_stay(floor: Floor) -> None:
    floor.ask(1)
    floor.work()
    store = FileStore(floor.settings.artifacts_dir)
    never = store.path(store.put(b"a report of a worker that was killed"))
    stage = [artefact(floor, f"{'3' * 64}.json"), artefact(floor, f"{'4' * 64}.safetensors")]
    for path in floor.settings.artifacts_dir.rglob("*"):
        aged(path)
    before = {path for path in floor.settings.artifacts_dir.rglob("*") if path.is_file()}
    assert swept(floor) == {never}
    assert {path for path in floor.settings.artifacts_dir.rglob("*") if path.is_file()} == before - {never}
    assert all(path.is_file() for path in stage)


def test_a_data_directory_of_another_database_is_left_alone(floor: Floor) -> None:
    """Somebody's database address leads to an empty database: all files there are nobody's, and precious."""
    theirs = floor.settings.model_copy(update={"data_dir": floor.directory / "theirs"})
    source = weights.adapter(floor.directory / "source")
    version = write_version(
        source, theirs.adapters_dir, model_name="theirs", version=1, base_model_digest="ab" * 32, parent=None
    )
    store = FileStore(theirs.artifacts_dir)
    report = store.path(store.put(b"their report"))
    aged(theirs.data_dir)
    assert orphans.remove(floor.db, theirs) == []
    assert version.directory.is_dir()
    assert report.is_file()
