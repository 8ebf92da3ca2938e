"""Key-encryption keys: several versions at once, bound contexts, and files that nobody else may read."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from app.config import Settings
from app.envelope.errors import NoKeyEncryptionKey
from app.envelope.kms import FileKeys, Wrapped, WrappedUnreadable, load_keys, parse_keys, read_keys_file

ONE, TWO = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b"))


def test_the_first_version_wraps_and_all_unwrap() -> None:
    old, both = FileKeys(parse_keys(f"1:{ONE}")), FileKeys(parse_keys(f"2:{TWO}\n1:{ONE}\n"))
    by_old, by_both = old.wrap([(b"secret", b"r1")])[0], both.wrap([(b"secret", b"r1")])[0]
    assert (by_old.version, by_both.version, both.current, set(both.versions)) == (1, 2, 2, {1, 2})
    assert both.unwrap([(by_old, b"r1"), (by_both, b"r1")]) == [b"secret", b"secret"]
    with pytest.raises(NoKeyEncryptionKey, match="version 2"):
        old.unwrap([(by_both, b"r1")])


def test_a_wrapped_secret_is_of_no_use_elsewhere() -> None:
    keys = FileKeys({1: b"a" * 32, 2: b"a" * 31 + b"b"})
    wrapped = keys.wrap([(b"secret", b"r1")])[0]
    others = (Wrapped(2, wrapped.data), Wrapped(1, wrapped.data[:-1]), Wrapped(1, b""))
    for other, context in [(wrapped, b"r2"), *((one, b"r1") for one in others)]:
        with pytest.raises(WrappedUnreadable):
            keys.unwrap([(other, context)])


@pytest.mark.parametrize(
    "text",
    [
        "", ONE, f"x:{ONE}", f"0:{ONE}", f"-1:{ONE}", "1:" + ONE[:-4], f"1:{ONE}{ONE}", f"1:{ONE},1:{TWO}",
        f"1:{ONE},2:{ONE}", f"1 : {ONE}", ",".join(f"{n}:{ONE}" for n in range(1, 70)), "1:" + "=" * 44,
    ],
)  # fmt: skip
def test_what_is_no_list_of_keys_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(NoKeyEncryptionKey) as refused:
        FileKeys(parse_keys(text))
    assert ONE not in str(refused.value.problem())


def written(path: Path, mode: int, text: str = f"1:{ONE}\n") -> Path:
    path.write_text(text, encoding="ascii")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440])
def test_a_file_of_its_own_is_read(tmp_path: Path, mode: int) -> None:
    settings = Settings(key_encryption_keys_file=written(tmp_path / "keys", mode))
    assert set(load_keys(settings).versions) == {1}


@pytest.mark.parametrize("mode", [0o444, 0o404, 0o402, 0o660, 0o420, 0o644])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(NoKeyEncryptionKey, match=f"mode {mode:04o}"):
        read_keys_file(written(tmp_path / "keys", mode))


def test_a_missing_a_huge_and_a_special_file_are_refused(tmp_path: Path) -> None:
    huge = written(tmp_path / "huge", 0o400, "1:" + "A" * 20_000)
    for path in (tmp_path / "none", huge, Path("/dev/null")):
        with pytest.raises(NoKeyEncryptionKey):
            read_keys_file(path)


def test_without_any_key_nothing_is_sealed_plainly() -> None:
    with pytest.raises(NoKeyEncryptionKey):
        load_keys(Settings(key_encryption_keys=""))


def test_keys_are_in_no_repr() -> None:
    settings = Settings(key_encryption_keys=f"1:{ONE}")
    assert ONE not in repr(settings)
    assert "wrapped" not in repr(Wrapped(1, b"wrapped"))
