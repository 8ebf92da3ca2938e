"""ORM only, one file a noun. Importing this package registers every table with `Base.metadata`."""

from app.tables.adapter import Adapter, AdapterDownload, AdapterState
from app.tables.audit import Audit
from app.tables.base import Base
from app.tables.batch import Batch, BatchExample, BatchMember, BatchReason
from app.tables.example import Example, ExampleDomain
from app.tables.job import Job
from app.tables.key import Key, KeyRole
from app.tables.report import Report
from app.tables.request import Request, RequestDomain
from app.tables.served_model import Replica, ServedModel

__all__ = [
    "Adapter",
    "AdapterDownload",
    "AdapterState",
    "Audit",
    "Base",
    "Batch",
    "BatchExample",
    "BatchMember",
    "BatchReason",
    "Example",
    "ExampleDomain",
    "Job",
    "Key",
    "KeyRole",
    "Replica",
    "Report",
    "Request",
    "RequestDomain",
    "ServedModel",
]
