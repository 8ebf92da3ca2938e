"""`grail methods` and GET /v1/methods: the catalogue for whoever writes a policy."""

from __future__ import annotations

from app.served_models.schemas import Policy
from grail.config import METHODS, OBJECTIVES, RETAIN_OBJECTIVES
from tests.app.conftest import caller
from tests.app.service import Caller
from tests.cli.conftest import Grail

__all__ = ["caller"]


def test_every_method_and_objective_stands_in_a_table_with_its_sentence_and_its_values(grail: Grail) -> None:
    said = grail("methods").out
    for name in (*METHODS, *OBJECTIVES, "kl"):
        assert name in said
    for words in (
        "mask_rule=frozen", "thresholds=quantile (quantile, absolute)", "mu=0.75 (-1..1)", "learning_rate=0.0001",
        "beta=0.1", "whole tensors", "train, the rest is frozen",
    ):  # fmt: skip
        assert words in said
    assert "unlearn.method=" in grail("methods").err


def test_the_api_and_the_command_list_the_same_to_everybody(grail: Grail, caller: Caller) -> None:
    shown = grail("methods", "--json").json
    for role in ("requester", "operator", "officer", "admin"):
        assert caller.call(role, "GET", "/v1/methods") == shown
    assert [row["name"] for row in shown["methods"]] == list(METHODS)
    assert [row["name"] for row in shown["objectives"]] == list(OBJECTIVES)
    assert [row["name"] for row in shown["retain_objectives"]] == list(RETAIN_OBJECTIVES[:-1])
    assert all(row["says"].endswith(".") for rows in shown.values() for row in rows)
    memflex = next(row for row in shown["methods"] if row["name"] == "memflex")
    assert (memflex["fixes"]["mask_rule"], memflex["options"]["mu"]) == ("frozen", 0.75)
    assert memflex["limits"]["mu"] == [-1.0, 1.0]


def test_each_that_is_listed_can_be_named_and_then_has_the_values_listed(caller: Caller) -> None:
    shown = caller.call("requester", "GET", "/v1/methods")
    for setting, rows in (("method", shown["methods"]), ("objective", shown["objectives"])):
        for row in rows:
            made = Policy.model_validate({"unlearn": {setting: row["name"]}}).unlearn.as_dict()
            assert {name: made[name] for name in row["fixes"] | row["presets"]} == row["fixes"] | row["presets"]
            assert made["options"].items() >= row["options"].items()
