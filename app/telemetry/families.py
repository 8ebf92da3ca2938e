"""What the rows said, as families of metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.served_models.breaker import BreakerState

Samples = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Numbers under their labels, in the order of `LABELS`."""

    gauges: Mapping[str, Mapping[tuple[str, ...], float]]
    lease_losses: Mapping[str, int]
    breakers: Mapping[str, BreakerState]
    left_out: int = field(default=0)
    removed: Mapping[str, int] = field(default_factory=dict)


GAUGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "grail_requests_open": (("model", "state"), "Requests that are not done."),
    "grail_queue_age_seconds": (("model",), "How long the oldest pending request has waited since its receipt."),
    "grail_requests_overdue": (("model", "regulation"), "Requests whose clock runs and that are past their due date."),
    "grail_requests_due_soon": (
        ("model", "regulation"), "Requests whose clock runs and that are due within seven days, or overdue.",
    ),
    "grail_days_left": (("model",), "Days until the first pending request is due; below 0 it is overdue."),
    "grail_jobs_open": (("model", "state"), "Jobs that have not ended."),
    "grail_job_age_seconds": (("model", "state"), "Since when the oldest of these jobs was made."),
    "grail_stage_seconds": (("model", "stage"), "What each stage of the last job that ended took."),
    "grail_version": (("model",), "The number of the version that is served."),
    "grail_version_published_timestamp_seconds": (("model",), "When it was published."),
    "grail_version_success": (("model", "domain"), "Calibrated unlearning success (cUS, 0 to 100) at its gate."),
    "grail_version_retention": (("model", "domain"), "Retention success (RS, 0 to 100) at its gate."),
    "grail_webhook_lag_seconds": ((), "How late the latest of the due webhook messages is."),
    "grail_webhook_pending": ((), "Webhook messages that wait for an attempt."),
    "grail_webhook_dead_letters": ((), "Webhook messages that were given up and not replayed."),
    "grail_workers": ((), "Gpu workers seen within a lease."),
    "grail_worker_memory_bytes": ((), "Memory of the largest of them."),
    "grail_log_leaves": ((), "Leaves of the audit log that have a number."),
    "grail_log_waiting": ((), "Leaves of the audit trail that wait for one, 100,000 at most."),
    "grail_log_checkpoint_age_seconds": ((), "Since the audit log was last signed; absent before the first time."),
    "grail_bundles_waiting": (("waits_for",), "Reports of concluded jobs without their bundle, 10,000 at most."),
    "grail_bundle_age_seconds": (("waits_for",), "Since when the first of them has waited: the end of its job."),
    "grail_bundles_sealed": ((), "Bundles of the last seven days that are sealed and whole, 10,000 at most."),
    "grail_backup_age_seconds": ((), "Since the newest whole backup in GRAIL_BACKUP_DIR; absent without that setting."),
}  # fmt: skip


def gauge(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    """One family."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def families(found: Snapshot) -> Iterator[Metric]:
    """Each family, also those without a sample: dashboards and tests find its name."""
    for name, (labels, text) in GAUGES.items():
        yield gauge(name, text, found.gauges.get(name, {}).items(), labels)
    losses = CounterMetricFamily("grail_lease_losses", "Jobs taken from a worker that went silent.", labels=("model",))
    for model, count in found.lease_losses.items():
        losses.add_metric((model,), count)
    yield losses
    removed = CounterMetricFamily("grail_rows_removed", "Rows removed because of their age.", labels=("kind",))
    for kind, count in found.removed.items():
        removed.add_metric((kind,), count)
    yield removed
    states = [
        ((model, str(state)), float(state is now)) for model, now in found.breakers.items() for state in BreakerState
    ]
    yield gauge("grail_breaker_state", "1 for the state that the breaker is in.", states, ("model", "state"))
    yield gauge("grail_models_left_out", "Served models that no metric tells of.", [((), found.left_out)])
