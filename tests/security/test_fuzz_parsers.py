"""Whatever bytes come in, what reads them ends with a value or with its own error."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.adapters.headers import BrokenFile, read_header
from app.errors import ServiceError
from app.events.positions import position_of
from app.imports.rows import rows_of
from app.opendsr.schemas import DataSubjectRequest
from app.preconditions import PreconditionFailed, is_known, require_match
from app.reports.negotiation import choose
from app.requests.cursors import due_date_of, id_of
from app.requests.errors import BadCursor
from app.tables import ImportForm
from app.webhooks.addresses import target_of

BOUNDED = settings(
    max_examples=80, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
HEADER = st.text(st.characters(max_codepoint=255), max_size=80) | st.text('",W/*; 0-9\\', max_size=40)
READERS: dict[str, Callable[[str], object]] = {
    "cursor": id_of, "cursor by due date": due_date_of, "position": position_of, "address": target_of,
    "accept": lambda text: choose(None, text), "if-none-match": lambda text: is_known(text, '"1"'),
    "if-match": lambda text: require_match(text, '"1"'),
}  # fmt: skip


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@given(HEADER | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")) | st.text(max_size=40))
@BOUNDED
def test_headers_cursors_and_addresses(read: Callable[[str], object], text: str) -> None:
    try:
        read(text)
    except ServiceError as error:
        assert error.status < 500 and (isinstance(error, BadCursor | PreconditionFailed) or error.mend)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda raw: len(raw).to_bytes(8, "little") + raw))
@BOUNDED
def test_headers_of_weights(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw)
    try:
        read_header(path)
    except BrokenFile:
        return


CELLS = st.sampled_from([b"served_model", b"domain", b"segment", b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"="])


@pytest.mark.parametrize("form", list(ImportForm))
@given(st.binary(max_size=200) | st.lists(CELLS, max_size=40).map(b"".join) | st.binary(max_size=60).map(
    lambda raw: b"served_model,domain,segment,prompt,completion\n" + raw
))  # fmt: skip
@BOUNDED
def test_files_of_requests(form: ImportForm, raw: bytes) -> None:
    for row in rows_of(form, io.BytesIO(raw), max_row_bytes=100, max_rows=20):
        assert row.payload is not None or row.faults
        for fault in row.faults:
            assert fault.as_line().endswith(b"\n") and fault.as_line().count(b"\n") == 1


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
).map(lambda value: str(value).encode("utf-8", "replace")))  # fmt: skip
@BOUNDED
def test_requests_of_data_subjects(raw: bytes) -> None:
    try:
        DataSubjectRequest.model_validate_json(raw)
    except ValidationError:
        return
