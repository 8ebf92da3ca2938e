"""The master secret: made once, private, refused when weak; what is derived depends on all that it is derived from."""

from __future__ import annotations

import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings, load_settings
from app.main import create_app
from app.secret import LEAST_BYTES, NoMasterSecret, derive, derive_each, ensure_file, masters
from cli.stack import Stack, StackFailed

OLD, NEW = "o" * LEAST_BYTES, "n" * LEAST_BYTES
Parts = st.lists(st.one_of(st.text(max_size=4), st.integers(0, 99), st.binary(max_size=4)), max_size=4)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the master secrets of this process."""

    def put(value: str) -> None:
        monkeypatch.setenv("GRAIL_MASTER_SECRET", value)
        load_settings.cache_clear()

    yield put
    load_settings.cache_clear()


def test_the_first_secret_signs_and_all_of_them_verify(secret: Callable[[str], None]) -> None:
    secret(OLD)
    before = derive("test", 1)
    secret(f"{NEW},{OLD}")
    assert derive("test", 1) != before
    assert derive_each("test", 1) == [derive("test", 1), before]
    secret(f" {NEW} \n\n{OLD}\n")
    assert [len(master) for master in masters()] == [LEAST_BYTES, LEAST_BYTES]
    assert before in derive_each("test", 1)


@pytest.mark.parametrize("value", ["", " , ", "x" * (LEAST_BYTES - 1), f"{OLD},short"])
def test_a_missing_or_a_short_secret_is_refused_with_how_to_make_one(
    secret: Callable[[str], None], value: str
) -> None:
    secret(value)
    with pytest.raises(NoMasterSecret) as caught:
        derive("test")
    assert "openssl rand" in caught.value.how_to_mend
    assert value.strip(" ,") == "" or value not in str(caught.value)


@given(first=Parts, second=Parts)
def test_other_parts_give_other_keys(first: list[str | int | bytes], second: list[str | int | bytes]) -> None:
    written = [[part if isinstance(part, bytes) else str(part).encode() for part in parts] for parts in (first, second)]
    assert (derive("test", *first) == derive("test", *second)) == (written[0] == written[1])
    assert derive("test", *first) != derive("tes", "t", *first)


def test_a_file_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    threads = [threading.Thread(target=ensure_file, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = ensure_file(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = path.read_text().strip()
    assert len(made.encode()) >= LEAST_BYTES
    assert ensure_file(tmp_path).read_text().strip() == made


def test_the_secret_may_come_from_a_file_and_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ensure_file(tmp_path)
    with monkeypatch.context() as patch:
        patch.delenv("GRAIL_MASTER_SECRET")
        patch.setenv("GRAIL_MASTER_SECRET_FILE", str(path))
        load_settings.cache_clear()
        try:
            assert masters() == [path.read_bytes().strip()]
            assert path.read_text().strip() not in repr(load_settings())
        finally:
            load_settings.cache_clear()
            patch.setenv("GRAIL_MASTER_SECRET", "")  # what reading the file has set goes with the context


def test_an_api_without_a_secret_does_not_start(settings: Settings, secret: Callable[[str], None]) -> None:
    secret("")
    with pytest.raises(NoMasterSecret), TestClient(create_app(settings)):
        pass


@pytest.mark.parametrize("command", [("api",), ("worker", "control")])
def test_commands_without_a_secret_say_how_to_make_one(
    secret: Callable[[str], None], command: tuple[str, ...], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from cli.main import main

    secret("")
    monkeypatch.setattr("sys.argv", ["grail", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "GRAIL_MASTER_SECRET is not set" in said and "openssl rand -base64 48" in said


def test_a_service_with_servers_of_others_does_not_start_without_one(
    tmp_path: Path, secret: Callable[[str], None]
) -> None:
    secret("")
    elsewhere = {"GRAIL_DATABASE_URL": "postgresql://nowhere/x", "GRAIL_BROKER_URL": "redis://nowhere/0"}
    with pytest.raises(StackFailed, match="openssl rand"):
        Stack(elsewhere, data_dir=tmp_path / str(uuid.uuid4()), embedded=False).start()
