"""What an exception means for a job: words with a way out, whether to try again, and never what somebody wrote."""

from __future__ import annotations

import errno
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from sqlalchemy.exc import OperationalError

from app.adapters.files import VersionDamaged
from app.errors import ServiceError, StorageFull, Unavailable
from app.jobs.failures import FailureKind
from app.jobs.verdicts import LOWEST_RATE
from grail.checks import AdapterDetached, AdapterDidNotMove, MaskBroken, NonFinite
from grail.config import NothingNamed, UnlearnConfig
from grail.data.tokenise import TooLong
from grail.localise.gradients import NotPerExample
from grail.localise.regions import NoRetainData
from grail.methods.memflex import NothingLocated
from grail.metrics.likelihood import NonFiniteScore
from grail.model.quantised import QuantisationMissing
from worker.device import MemoryExhausted, WrongPlacement
from worker.failures import failure_of
from worker.job import BaseChanged

SECRET = "Ottoline Brandmayr of 4 Quince Street"
API_PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
OF_THE_SERVICE = {"internal-error"}
"""A type that no job is stored with."""
SETTINGS = UnlearnConfig(learning_rate=2e-3, seed=4).as_dict()

OWNER = uuid.uuid4()
KINDS: list[tuple[BaseException, str, FailureKind]] = [
    (NonFinite("the forget loss is not finite"), "not-finite", FailureKind.SETTINGS),
    (NonFiniteScore("an-id"), "broken-adapter", FailureKind.UNKNOWN),
    (FloatingPointError("gradients are not finite"), "not-finite", FailureKind.UNKNOWN),
    (AdapterDidNotMove("no weight changed"), "did-not-move", FailureKind.SETTINGS),
    (AdapterDetached("3 of 14 adapter tensors got no gradient"), "adapter-detached", FailureKind.SETTINGS),
    (MaskBroken("entries of q_proj changed that the mask rule frozen protects"), "mask-broken", FailureKind.SETTINGS),
    (NothingLocated("no adapter tensor passes both thresholds"), "nothing-located", FailureKind.SETTINGS),
    (NothingNamed("the strategy privacy names none of the domains"), "nothing-named", FailureKind.SETTINGS),
    (MemoryExhausted("does not fit"), "out-of-memory", FailureKind.MEMORY),
    (MemoryError(SECRET), "out-of-memory", FailureKind.MEMORY),
    (torch.OutOfMemoryError(SECRET), "out-of-memory", FailureKind.MEMORY),
    (QuantisationMissing("a base in nf4 needs bitsandbytes"), "quantisation-missing", FailureKind.OPERATOR),
    (WrongPlacement("GRAIL_QUANTISATION must be one of none, int8, nf4"), "wrong-placement", FailureKind.OPERATOR),
    (TooLong("an-id", 70, 64), "text-too-long", FailureKind.DATA),
    (TooLong("a-standing-row", 70, 64), "text-too-long", FailureKind.OPERATOR),
    (NotPerExample("gate_proj sees no sequences"), "adapter-not-localisable", FailureKind.SETTINGS),
    (NoRetainData("no retain example"), "no-retain-data", FailureKind.SETTINGS),
    (SafetensorError(f"Error while deserializing {SECRET}"), "broken-weights", FailureKind.OPERATOR),
    (SafetensorError(f"I/O error: {SECRET} (os error 28)"), "storage-full", FailureKind.OPERATOR),
    (SafetensorError(f"I/O error: {SECRET} (os error 116)"), "files-away", FailureKind.TRANSIENT),
    (OSError(errno.ENOSPC, SECRET), "storage-full", FailureKind.OPERATOR),
    (OSError(errno.EDQUOT, SECRET), "storage-full", FailureKind.OPERATOR),
    (OSError(errno.ESTALE, SECRET), "files-away", FailureKind.TRANSIENT),
    (OSError(errno.EIO, SECRET), "files-away", FailureKind.TRANSIENT),
    (TimeoutError(SECRET), "files-away", FailureKind.TRANSIENT),
    (ConnectionRefusedError(SECRET), "files-away", FailureKind.TRANSIENT),
    (FileNotFoundError(errno.ENOENT, "gone", SECRET), "files-missing", FailureKind.OPERATOR),
    (PermissionError(errno.EACCES, SECRET), "files-missing", FailureKind.OPERATOR),
    (OSError(f"{SECRET} does not appear to have a file named config.json"), "files-missing", FailureKind.OPERATOR),
    (StorageFull("the adapter version could not be written"), "storage-full", FailureKind.OPERATOR),
    (VersionDamaged("a file is not as the manifest has it"), "version-damaged", FailureKind.OPERATOR),
    (BaseChanged("its weight files changed"), "base-changed", FailureKind.OPERATOR),
    (Unavailable("the database does not answer"), "unavailable", FailureKind.TRANSIENT),
    (OperationalError("UPDATE", {}, Exception(SECRET)), "unavailable", FailureKind.TRANSIENT),
    (ServiceError("something"), "internal-error", FailureKind.UNKNOWN),
    (ValueError(SECRET), "unexpected", FailureKind.UNKNOWN),
    (RuntimeError(SECRET), "unexpected", FailureKind.UNKNOWN),
    (KeyError(SECRET), "unexpected", FailureKind.UNKNOWN),
    (TypeError(SECRET), "unexpected", FailureKind.UNKNOWN),
    (ZeroDivisionError(SECRET), "unexpected", FailureKind.UNKNOWN),
    (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), "unexpected", FailureKind.UNKNOWN),
]


@pytest.mark.parametrize(("error", "slug", "kind"), KINDS, ids=lambda part: part if isinstance(part, str) else None)
def test_each_error_has_its_words_and_its_kind(error: BaseException, slug: str, kind: FailureKind) -> None:
    found = failure_of(error, SETTINGS, {"an-id": OWNER})
    assert (found.error["type"], found.kind) == (slug, kind)
    assert all(found.error[word] for word in ("type", "title", "detail", "mend"))
    assert SECRET not in str(found)
    assert not any(part in str(found) for part in SECRET.split() if len(part) > 4)
    assert found.requests == ({OWNER} if kind is FailureKind.DATA else set())


def test_the_words_of_what_a_person_can_mend_are_told_with_the_way_out() -> None:
    for error in (AdapterDetached("d"), MaskBroken("d"), NothingLocated("d"), NothingNamed("d")):
        assert failure_of(error, SETTINGS).error["detail"] == "d"
    assert "strategy" in failure_of(NothingNamed("d"), SETTINGS).error["mend"]
    assert "options" in failure_of(NothingLocated("d"), SETTINGS).error["mend"]


def test_the_page_about_the_api_names_every_type_that_a_job_may_fail_with() -> None:
    lines = API_PAGE.read_text(encoding="utf-8").split("**Failed jobs.**")[1].split("\n\nWhichever")[0].splitlines()
    named = {name for line in lines if line.startswith("- ") for name in re.findall(r"`([a-z-]+)`", line.split(":")[0])}
    assert named == {kind for _, kind, _ in KINDS} - OF_THE_SERVICE | {"workers-died", "refused"}


def test_an_unexpected_error_is_told_by_kind_and_line() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        found = failure_of(error, SETTINGS)
    assert "KeyError at " in found.error["detail"]
    assert "test_failures.py:" in found.error["detail"]


def test_training_that_left_the_numbers_is_tried_again_at_half_the_rate_with_another_seed() -> None:
    settings: dict[str, Any] = dict(SETTINGS)
    for _ in range(40):
        changes = failure_of(NonFinite("x"), settings).changes
        assert changes["learning_rate"] == max(settings["learning_rate"] / 2, LOWEST_RATE)
        assert changes["seed"] == settings["seed"] + 1
        settings = UnlearnConfig(**{**settings, **changes}).as_dict()


def test_other_failures_change_no_settings() -> None:
    assert all(not failure_of(error, SETTINGS).changes for error, _, _ in KINDS if not isinstance(error, NonFinite))


def test_only_what_a_new_try_could_mend_by_itself_is_tried_again_with_the_same_settings() -> None:
    again = {slug for error, slug, _ in KINDS if failure_of(error, SETTINGS).changes == {}}
    assert again == {"no-retain-data"}
