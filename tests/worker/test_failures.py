"""What an exception means for a job: words with a way out, whether to try again, and never what somebody wrote."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from app.adapters.files import VersionDamaged
from app.errors import ServiceError, StorageFull, Unavailable
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
OF_THE_SERVICE = {"unavailable", "internal-error"}
"""Types that no job is stored with, or that stand among the answers."""
SETTINGS = UnlearnConfig(learning_rate=2e-3, seed=4).as_dict()

KINDS: list[tuple[BaseException, str, bool]] = [
    (NonFinite("the forget loss is not finite"), "not-finite", True),
    (NonFiniteScore("an-id"), "broken-adapter", False),
    (FloatingPointError("gradients are not finite"), "not-finite", False),
    (AdapterDidNotMove("no weight changed"), "did-not-move", False),
    (AdapterDetached("3 of 14 adapter tensors got no gradient"), "adapter-detached", False),
    (MaskBroken("entries of q_proj changed that the mask rule frozen protects"), "mask-broken", False),
    (NothingLocated("no adapter tensor passes both thresholds"), "nothing-located", False),
    (NothingNamed("the strategy privacy names none of the domains"), "nothing-named", False),
    (MemoryExhausted("does not fit"), "out-of-memory", False),
    (MemoryError(), "out-of-memory", False),
    (QuantisationMissing("a base in nf4 needs bitsandbytes"), "quantisation-missing", False),
    (WrongPlacement("GRAIL_QUANTISATION must be one of none, int8, nf4"), "wrong-placement", False),
    (TooLong("an-id", 70, 64), "text-too-long", False),
    (NotPerExample("gate_proj sees no sequences"), "adapter-not-localisable", False),
    (NoRetainData("no retain example"), "no-retain-data", True),
    (SafetensorError(f"Error while deserializing {SECRET}"), "broken-weights", False),
    (OSError(errno.ENOSPC, SECRET), "storage-full", False),
    (OSError(errno.EDQUOT, SECRET), "storage-full", False),
    (FileNotFoundError(errno.ENOENT, "gone", SECRET), "files-missing", False),
    (PermissionError(errno.EACCES, SECRET), "files-missing", False),
    (OSError(f"{SECRET} does not appear to have a file named config.json"), "files-missing", False),
    (StorageFull("the adapter version could not be written"), "storage-full", False),
    (VersionDamaged("a file is not as the manifest has it"), "version-damaged", False),
    (BaseChanged("its weight files changed"), "base-changed", False),
    (Unavailable("the database does not answer"), "unavailable", True),
    (ServiceError("something"), "internal-error", False),
    (ValueError(SECRET), "unexpected", True),
    (RuntimeError(SECRET), "unexpected", True),
    (KeyError(SECRET), "unexpected", True),
    (TypeError(SECRET), "unexpected", True),
    (ZeroDivisionError(SECRET), "unexpected", True),
    (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), "unexpected", True),
]


@pytest.mark.parametrize(
    ("error", "kind", "retryable"), KINDS, ids=lambda part: part if isinstance(part, str) else None
)
def test_each_kind_of_error_has_its_words_and_its_consequence(error: BaseException, kind: str, retryable: bool) -> None:
    found = failure_of(error, SETTINGS)
    assert (found.error["type"], found.retryable) == (kind, retryable)
    assert all(found.error[word] for word in ("type", "title", "detail", "mend"))
    assert SECRET not in str(found)
    assert not any(part in str(found) for part in SECRET.split() if len(part) > 4)


def test_the_words_of_what_a_person_can_mend_are_told_with_the_way_out() -> None:
    for error in (AdapterDetached("d"), MaskBroken("d"), NothingLocated("d"), NothingNamed("d")):
        assert failure_of(error, SETTINGS).error["detail"] == "d"
    assert "strategy" in failure_of(NothingNamed("d"), SETTINGS).error["mend"]
    assert "options" in failure_of(NothingLocated("d"), SETTINGS).error["mend"]


def test_the_page_about_the_api_names_every_type_that_a_job_may_fail_with() -> None:
    lines = API_PAGE.read_text(encoding="utf-8").split("**Failed jobs.**")[1].split("\n\n**")[0].splitlines()
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
