"""Which settings the next try changes, from what failed at the gate."""

from __future__ import annotations

import pytest

from app.jobs.verdicts import changed_settings
from grail.config import UnlearnConfig


def failing(*names):
    return {"ok": False, "checks": [{"name": name, "ok": False} for name in names] + [{"name": "min_rs", "ok": True}]}


def test_what_is_still_remembered_is_trained_on_for_longer():
    settings = UnlearnConfig(passes=8, steps=0).as_dict()
    assert changed_settings(settings, failing("min_cus")) == {"seed": 1, "passes": 12.0}
    assert changed_settings({**settings, "steps": 40}, failing("min_request_cus")) == {"seed": 1, "steps": 60}
    assert changed_settings({**settings, "steps": 1}, failing("min_cus"))["steps"] == 2


def test_each_trouble_changes_its_own_setting():
    settings = UnlearnConfig(retain_weight=1.5, learning_rate=2e-3, passes=5.0).as_dict()
    assert changed_settings(settings, failing("min_request_rs")) == {"seed": 1, "retain_weight": 3.0}
    assert changed_settings(settings, failing("max_ppl_ratio")) == {"seed": 1, "learning_rate": 1e-3}
    assert changed_settings(settings, failing("min_cus", "max_ppl_ratio")) == {"seed": 1, "passes": 7.5}
    assert changed_settings(settings, failing("max_forget_gap", "max_ppl_ratio")) == {"seed": 1, "learning_rate": 1e-3}
    assert changed_settings(settings, failing("something_new")) == {"seed": 1}


@pytest.mark.parametrize("steps", [0, 3, 100_000])
def test_changed_settings_stay_valid_however_often_they_are_changed(steps):
    settings = UnlearnConfig(steps=steps, seed=2**31 - 1).as_dict()
    for _ in range(60):
        settings |= changed_settings(settings, failing("min_cus", "min_rs", "max_ppl_ratio"))
        UnlearnConfig(**settings)
