"""ORM only, one file a noun. Importing this package registers every table with `Base.metadata`."""

from app.tables.adapter import Adapter, AdapterDownload, AdapterRecipient, AdapterState
from app.tables.approval import Approval
from app.tables.audit import Audit
from app.tables.base import Base
from app.tables.batch import Batch, BatchExample, BatchMember, BatchReason
from app.tables.bulk import Import, ImportForm, ImportState
from app.tables.bundle import Attestation, Bundle
from app.tables.certificate import Certificate
from app.tables.event import Event
from app.tables.example import Example, ExampleDomain
from app.tables.idempotency import Idempotency
from app.tables.job import Job, JobKind
from app.tables.key import Key, KeyRole
from app.tables.log import AuditPending, Checkpoint, LogKey, LogLeaf, LogNode
from app.tables.report import Report
from app.tables.request import HoldKind, Regulation, Request, RequestDomain, RequestKind
from app.tables.retention import Retention
from app.tables.served_model import Replica, ServedModel
from app.tables.webhook import Delivery, DeliveryState, Webhook
from app.tables.worker import Worker

__all__ = [
    "Adapter",
    "AdapterDownload",
    "AdapterRecipient",
    "AdapterState",
    "Approval",
    "Attestation",
    "Audit",
    "AuditPending",
    "Base",
    "Batch",
    "BatchExample",
    "BatchMember",
    "BatchReason",
    "Bundle",
    "Certificate",
    "Checkpoint",
    "Delivery",
    "DeliveryState",
    "Event",
    "Example",
    "ExampleDomain",
    "HoldKind",
    "Idempotency",
    "Import",
    "ImportForm",
    "ImportState",
    "Job",
    "JobKind",
    "Key",
    "KeyRole",
    "LogKey",
    "LogLeaf",
    "LogNode",
    "Regulation",
    "Replica",
    "Report",
    "Request",
    "RequestDomain",
    "RequestKind",
    "Retention",
    "ServedModel",
    "Webhook",
    "Worker",
]
