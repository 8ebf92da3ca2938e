"""Settings: frozen, units in names, read once. From the environment (`GRAIL_*`), secrets also from `GRAIL_*_FILE`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, IPvAnyNetwork, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = (
    "GRAIL_DATABASE_URL", "GRAIL_BROKER_URL", "GRAIL_RATE_URL", "GRAIL_MASTER_SECRET", "GRAIL_METRICS_TOKEN",
    "GRAIL_KEY",
)  # fmt: skip
"""What may also come from a file: `GRAIL_MASTER_SECRET_FILE` and so on. GRAIL_KEY is the command line's."""


RateRole = Literal["requester", "operator", "officer", "admin"]
RateKind = Literal["read", "write", "import"]


class Settings(BaseSettings):
    """Every bound and interval of the service."""

    model_config = SettingsConfigDict(env_prefix="GRAIL_", frozen=True, extra="ignore")

    database_url: str = Field("postgresql+psycopg://localhost/grail", repr=False)
    broker_url: str = Field("redis://localhost:6379/0", repr=False)
    master_secret: str = Field("", repr=False, description="One or several, see app.secret.")
    key_encryption_keys: str = Field("", repr=False, description="VERSION:BASE64, the first wraps: app.envelope.kms.")
    key_encryption_keys_file: Path | None = Field(None, description="Instead of the former: a file of mode 0400.")
    key_store_url: str = Field("", repr=False, description="Where keys of content are, without one a file of SQLite.")
    key_tombstones_file: Path | None = Field(None, description="The list of destroyed keys, not where the store is.")
    log_origin: str = Field("", max_length=200, description="The audit log's name, for ever: log.example.com/erasures.")
    signing_key: str = Field("", repr=False, description="PEM of one or several Ed25519 keys: app.audit_log.signing.")
    signing_key_file: Path | None = Field(None, description="Instead of the former: a file of mode 0600 or less.")
    signing_unsafe: bool = Field(False, description="Sign with a key that everybody has. For development.")
    model_signing_key: str = Field("", repr=False, description="PEM of a P-256 key that signs adapter versions.")
    model_signing_key_file: Path | None = Field(None, description="Instead of the former: a file of mode 0600 or less.")
    key_cache_keys: int = Field(10_000, gt=0)
    key_cache_seconds: float = Field(60.0, gt=0)
    data_dir: Path = Path(".grail")
    model_roots: list[Path] = Field(default_factory=list, description="Directories that models may be registered from.")

    max_body_bytes: int = Field(4 * 1024 * 1024, gt=0)
    max_items_per_request: int = Field(500, gt=0)
    max_probes_per_item: int = Field(20, ge=0)
    max_text_chars: int = Field(20_000, gt=0)
    max_facts_per_item: int = Field(20, gt=0)
    max_note_chars: int = Field(2_000, gt=0, le=2_000, description="As wide as its column at most.")
    max_reference_chars: int = Field(200, gt=0, le=200, description="As wide as its columns at most.")
    max_retain_set_items: int = Field(20_000, gt=0)
    max_import_bytes: int = Field(256 * 1024 * 1024, gt=0)
    max_import_rows: int = Field(100_000, gt=0)
    imports_per_key: int = Field(5, gt=0, description="That have not ended: each keeps its file on the disk.")
    page_limit_max: int = Field(200, gt=0)
    body_seconds: float = Field(30.0, gt=0, description="In which a body has to be there as a whole.")
    import_seconds: float = Field(900.0, gt=0, description="The same for a file.")
    max_in_flight: int = Field(100, gt=0, description="Calls at work in one process; those over it get a 503 at once.")
    ready_kept_seconds: float | None = Field(None, ge=0, description="How long /readyz answers with what it found; 1.")

    rate_limits_on: bool = True
    rate_url: str = Field("", repr=False, description="Redis or Valkey that counts calls; the broker without one.")
    rate_seconds: int = Field(60, gt=0, description="The window of all limits.")
    rate_limits: dict[RateRole, dict[RateKind, PositiveInt]] = Field(
        default_factory=dict, description="Instead of what app.rates.quotas has, by role and kind of call."
    )
    rate_limits_of_keys: dict[str, dict[RateKind, PositiveInt]] = Field(
        default_factory=dict, description="Instead of the role's, by the prefix of a key."
    )
    rate_failures_per_address: int = Field(60, gt=0, description="Calls without a valid key.")
    rate_timeout_seconds: float = Field(0.5, gt=0, description="How long a call waits for the counter.")
    rate_pause_seconds: float = Field(2.0, gt=0, description="How long nobody asks a counter that did not answer.")

    request_due_days: int = Field(30, gt=0)
    max_tries: int = Field(3, gt=0)
    lease_seconds: float = Field(60.0, gt=0)
    heartbeat_seconds: float = Field(10.0, gt=0)
    plan_seconds: float = Field(5.0, gt=0)
    sweep_seconds: float = Field(15.0, gt=0)
    number_seconds: float = Field(2.0, gt=0, description="How often leaves of the audit trail get their numbers.")
    checkpoint_seconds: float = Field(60.0, gt=0, description="How often the audit log is signed, if it grew.")
    bundle_seconds: float = Field(5.0, gt=0, description="How often what is owed to auditors is signed and assembled.")
    breaker_failures: int = Field(3, gt=0)
    breaker_seconds: float = Field(300.0, gt=0)
    worker_memory_bytes: int | None = Field(None, gt=0, description="What a gpu worker offers instead of all it has.")
    broker_timeout_seconds: float = Field(3.0, gt=0)
    database_timeout_seconds: int = Field(10, gt=0)
    log_level: str = "INFO"

    metrics_token: str = Field("", repr=False, description="Reads /metrics and nothing else; several by commas.")
    traces_endpoint: str = Field("", max_length=500, description="OTLP over HTTP, as http://collector:4318/v1/traces.")
    traces_share: float = Field(1.0, ge=0, le=1)
    backup_dir: Path | None = Field(None, description="Where `grail backup` puts backups; their age is watched.")
    backup_max_hours: float = Field(26.0, gt=0)

    public_url: str = Field("", max_length=500, description="Where callers reach the API; begins links in webhooks.")
    events_poll_seconds: float = Field(0.5, gt=0)
    events_heartbeat_seconds: float = Field(15.0, gt=0)
    events_streams_per_key: int = Field(10, gt=0)
    events_streams_max: int = Field(1000, gt=0, description="In one process; they do not count as in flight.")
    deliver_seconds: float = Field(2.0, gt=0)
    webhooks_per_key: int = Field(20, gt=0)
    callbacks_per_key: int = Field(5000, gt=0, description="Of OpenDSR requests, until their last word was told.")
    webhook_timeout_seconds: float = Field(15.0, gt=0)
    webhook_retry_seconds: list[float] = Field(
        [5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 23_100.0], description="Waits between attempts: a day in all."
    )
    webhook_disable_days: float = Field(5.0, gt=0)
    keep_events_days: float = Field(90.0, ge=1, description="Longer than anybody who follows may be away.")
    keep_deliveries_days: float = Field(30.0, ge=2, description="Of webhooks, once delivered or given up.")
    keep_answers_days: float = Field(1.0, ge=1, le=30, description="Under an Idempotency-Key.")
    keep_faults_days: float = Field(30.0, ge=1, description="Files that say which rows of an import were wrong.")
    webhook_private_networks: list[IPvAnyNetwork] = Field(
        default_factory=list, description="Private ranges that webhooks may lead to; with loopback also by http."
    )
    opendsr_certificate_url: str = Field("", max_length=2000, description="Where the certificate of that key is found.")
    opendsr_key_file: Path | None = Field(None, description="PEM of an RSA or Ed25519 key that signs OpenDSR answers.")

    @property
    def artifacts_dir(self) -> Path:
        """What jobs' stages made, and reports, each under its digest."""
        return self.data_dir / "artifacts"

    @property
    def adapters_dir(self) -> Path:
        """Adapter versions, one immutable directory each."""
        return self.data_dir / "adapters"

    @property
    def keys_url(self) -> str:
        """Where keys of content are kept."""
        return self.key_store_url or f"sqlite:///{(self.data_dir / 'keys' / 'keys.sqlite3').absolute()}"

    @property
    def tombstones_file(self) -> Path:
        """The list of destroyed keys."""
        return self.key_tombstones_file or self.data_dir / "keys" / "tombstones"

    @property
    def allowed_roots(self) -> list[Path]:
        """Directories that base models and adapters may be registered from."""
        return self.model_roots or [self.data_dir, Path.cwd()]


def read_secret_files() -> None:
    """GRAIL_X_FILE names a file whose content becomes GRAIL_X, unless that is set: how containers hand in secrets."""
    for name in SECRETS:
        path = os.environ.get(f"{name}_FILE")
        if path and name not in os.environ:
            os.environ[name] = Path(path).read_text(encoding="utf-8").strip()


@lru_cache(maxsize=1)
def bounds() -> Settings:
    """The bounds that schemas and the OpenAPI document carry, read when those are imported. Apart from `load_settings`,
    which is to be read later: commands set parts of the environment before it."""
    return Settings()


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once."""
    read_secret_files()
    return Settings()
