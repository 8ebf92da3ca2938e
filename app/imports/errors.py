"""What can be wrong with an import, beyond its rows."""

from __future__ import annotations

from typing import ClassVar

from app.errors import Gone, NotFound, ServiceError, UnsupportedMediaType


class WrongForm(UnsupportedMediaType):
    """Neither JSONL nor CSV, or not what `form` says."""

    type = "unsupported-import"
    title = "An import is a file of JSONL or CSV"
    mend = (
        "Send the file itself as the body, with `Content-Type: application/x-ndjson` for JSONL or `text/csv` for CSV, "
        "and the same in `form` or no `form`."
    )


class NoFaultsYet(NotFound):
    """The import has not ended."""

    type = "no-faults-yet"
    title = "The import has not ended: which rows are wrong is not known yet"
    mend = "Read the import until its state is `imported`, `refused` or `failed`."


class FaultsRemoved(Gone):
    """They are older than they are kept."""

    type = "faults-removed"
    title = "Which rows were wrong is not kept any more"
    mend = "Import the file once more: rows that were imported are linked to the requests that are still open."


class TooManyImports(ServiceError):
    """429."""

    status, type, title = 429, "too-many-imports", "This key has as many imports open as it may"
    mend = "Send the file again once one of them has ended: GET /v1/imports lists them."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "30"}


class LeaseLost(Exception):
    """Another worker has taken the import up."""
