"""Sealed values: bound to their place, to the bit, and nothing else is taken for one."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.envelope.errors import ContentUnreadable, Malformed, WrongKeyOrPlace
from app.envelope.sealing import (
    FORM,
    MAX_CONTENT_BYTES,
    NONCE_BYTES,
    OVERHEAD_BYTES,
    DataKey,
    Place,
    check_form,
    open_sealed,
    seal,
)

KEY = DataKey.of(uuid.UUID(int=7), b"s" * 32)
PLACE = Place("example", uuid.UUID(int=1), "prompt")
ELSEWHERE = [
    replace(PLACE, table="request"),
    replace(PLACE, row=uuid.UUID(int=2)),
    replace(PLACE, field="completion"),
    Place("exampl", PLACE.row, "prompt"),
]


@given(st.binary(max_size=300))
def test_what_was_sealed_comes_back(content: bytes) -> None:
    sealed = seal(KEY, PLACE, content)
    assert open_sealed(KEY, PLACE, sealed) == content
    assert len(sealed) == len(content) + OVERHEAD_BYTES
    assert len(content) < 4 or content not in sealed


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_value_does_not_open_in_another_place(place: Place) -> None:
    with pytest.raises(WrongKeyOrPlace):
        open_sealed(KEY, place, seal(KEY, PLACE, b"who"))


def test_a_wrong_key_opens_nothing_nor_does_the_right_secret_under_another_id() -> None:
    sealed = seal(KEY, PLACE, b"who")
    for other in (DataKey.of(KEY.id, b"t" * 32), DataKey.of(uuid.UUID(int=8), b"s" * 32)):
        with pytest.raises(WrongKeyOrPlace):
            open_sealed(other, PLACE, sealed)


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    sealed = seal(KEY, PLACE, b"Quincestreet")
    for at in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(ContentUnreadable):
            open_sealed(KEY, PLACE, bytes(changed))
    for length in range(len(sealed)):
        with pytest.raises(ContentUnreadable):
            open_sealed(KEY, PLACE, sealed[:length])


@given(st.binary(max_size=100))
def test_bytes_from_anywhere_are_refused_with_a_kind_and_nothing_else(data: bytes) -> None:
    with pytest.raises(ContentUnreadable) as refused:
        open_sealed(KEY, PLACE, data)
    assert data.hex() not in str(refused.value) or len(data) < 2


@pytest.mark.parametrize(
    "data", [b"", FORM * (OVERHEAD_BYTES - 1), b"\x02" * 40, FORM * (MAX_CONTENT_BYTES + OVERHEAD_BYTES + 1)],
    ids=["empty", "short", "another form", "long"],
)  # fmt: skip
def test_what_can_not_be_sealed_content_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        check_form(data)


def test_equal_values_are_sealed_differently() -> None:
    sealed = {seal(KEY, PLACE, b"same") for _ in range(2000)}
    assert len({one[1 : 1 + NONCE_BYTES] for one in sealed}) == 2000
    assert len({one[1 + NONCE_BYTES :] for one in sealed}) == 2000


def test_too_much_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="at once"):
        seal(KEY, PLACE, bytes(MAX_CONTENT_BYTES + 1))


def test_commitments_depend_on_the_secret_and_the_key_that_seals_is_another() -> None:
    other = DataKey.of(KEY.id, b"t" * 32)
    assert KEY.commitment(b"x") == DataKey.of(KEY.id, b"s" * 32).commitment(b"x") != other.commitment(b"x")
    assert KEY.salt not in (b"s" * 32, other.salt)
    with pytest.raises(ValueError, match="32 bytes"):
        DataKey.of(KEY.id, b"short")


def test_nothing_of_a_key_is_shown() -> None:
    assert str(KEY.salt) not in repr(KEY)


# Sealed by the first version of the code: every later one has to open it.
GOLDEN = bytes.fromhex("01000102030405060708090a0bac70abfb636c1d9be848d1be80b210a2a53047bd3fd0")


def test_what_the_first_version_sealed_still_opens() -> None:
    assert open_sealed(KEY, PLACE, GOLDEN) == "Würde".encode()
