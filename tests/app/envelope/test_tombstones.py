"""The list of destroyed keys: what was appended is there, what a dying writer left is not, and damage stops all."""

from __future__ import annotations

import multiprocessing
import stat
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.envelope.errors import TombstonesDamaged
from app.envelope.tombstones import AT_ONCE, RECORD_BYTES, Tombstone, TombstoneFile, parse_record


def some(count: int, start: int = 0) -> list[Tombstone]:
    return [Tombstone(uuid.UUID(int=number), 1_700_000_000_000 + number) for number in range(start, start + count)]


def read(file: TombstoneFile, after: int = 0) -> list[Tombstone]:
    return [one for chunk in file.read(after) for one in chunk]


def test_records_come_back_in_their_order_from_anywhere(tombstones: TombstoneFile) -> None:
    assert (read(tombstones), tombstones.records(), tombstones.record(1)) == ([], 0, None)
    first, second = some(AT_ONCE + 5), some(3, 5000)
    tombstones.append(first)
    tombstones.append(second)
    tombstones.append([])
    assert read(tombstones) == first + second
    assert read(tombstones, AT_ONCE + 4) == first[-1:] + second
    assert tombstones.records() == AT_ONCE + 8
    assert tombstones.record(AT_ONCE + 8) == second[-1].record()
    assert tombstones.record(AT_ONCE + 9) is None
    assert stat.S_IMODE(tombstones.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "left", [b"0", some(1)[0].record()[:-1], bytes(10), bytes(RECORD_BYTES), bytes(3 * RECORD_BYTES + 1)]
)
def test_what_a_dying_writer_left_half_is_cut_off(tombstones: TombstoneFile, left: bytes) -> None:
    tombstones.append(some(2))
    with tombstones.path.open("ab") as file:
        file.write(left)
    assert read(tombstones) == some(2)
    tombstones.append(some(1, 2))
    assert read(tombstones) == some(3)
    assert tombstones.path.stat().st_size == 3 * RECORD_BYTES


@pytest.mark.parametrize("at", range(RECORD_BYTES))
def test_a_changed_byte_anywhere_stops_all(tombstones: TombstoneFile, at: int) -> None:
    tombstones.append(some(2))
    data = bytearray(tombstones.path.read_bytes())
    data[at] ^= 0x15
    tombstones.path.write_bytes(data)
    with pytest.raises(TombstonesDamaged):
        read(tombstones)


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES))
def test_bytes_from_anywhere_are_no_record(data: bytes) -> None:
    with pytest.raises(TombstonesDamaged):
        parse_record(data)


def append_many(path: Path, start: int) -> None:
    for number in range(start, start + 300):
        TombstoneFile(path).append(some(2, 2 * number))


def test_processes_that_append_at_once_lose_nothing(tombstones: TombstoneFile) -> None:
    tombstones.append([])
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(tombstones.path, 300 * n)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert sorted(one.key_id.int for one in read(tombstones)) == list(range(1200))
