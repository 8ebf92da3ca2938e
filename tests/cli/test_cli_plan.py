"""`grail plan` answers without loading anything, says what it assumed, and refuses what it can not use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Grail
from tests.fixtures.served import SHAPE, write_base

FACT = {
    "subject": "s",
    "domain": "privacy",
    "segment": "forget",
    "prompt": "who is it",
    "completion": "it is",
    "fact": "x",
}
PARAPHRASE = {"prompt": "who was it then", "completion": "nobody"}


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    rows = [FACT | {"paraphrases": [PARAPHRASE]}, FACT | {"segment": "retain", "paraphrases": []}]
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_7b_fits_one_card_and_70b_needs_several(grail: Grail) -> None:
    small = grail("plan", "--model", "llama-7b", "--items", 100, "--device", "cuda:48GB").out
    assert "It fits cuda:48gb" in small and "Assumed:" in small and "localise" in small
    large = grail("plan", "--model", "llama-70b", "--items", 100, "--device", "a100-80", "--quantisation", "none").out
    assert "It does not fit a100-80" in large and "2 such devices" in large
    assert "It fits 8 x a100-80" in grail(
        "plan", "--model", "llama-70b", "--items", 100, "--device", "a100-80", "--devices", 8
    ).out  # fmt: skip


def test_the_models_own_tokenizer_counts(grail: Grail, facts: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    counted = grail("plan", "--model", base, "--requests", facts, "--json").json
    load = counted["workload"]
    assert (load["items"], load["scored"], load["forget_items"]) == (2, 3, [1])
    own = load["item_tokens"] // 2
    # Prompt of three words, completion of two, the eos; the template is the same for all.
    assert load["scored_tokens"] == 3 * own and load["longest_tokens"] == own
    assert load["completion_share"] == pytest.approx(3 / own)
    assert "the model's tokenizer" in " ".join(counted["assumptions"])
    assert counted["device"]["name"] == "cpu" and counted["fits"] is True
    assert counted["seconds"] == pytest.approx(sum(counted["stages"].values()))
    assert counted["bytes"] == max(sum(parts.values()) for parts in counted["memory"].values())


def test_without_a_tokenizer_a_rule_of_thumb_counts_and_says_so(grail: Grail, facts: Path) -> None:
    counted = grail("plan", "--model", "llama-7b", "--requests", facts, "--json", "--device", "h100").json
    assert counted["workload"]["item_tokens"] == 2 * (round(9 / 4) + 12 + 1 + 1)
    assert "rule of thumb" in " ".join(counted["assumptions"])


def test_settings_and_the_adapters_own_rank_change_the_plan(grail: Grail, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 2, "target_modules": ["q_proj"]}', encoding="utf-8")
    base = write_base(tmp_path / "base")
    common = ("plan", "--model", base, "--items", 10, "--json")
    few, many = (grail(*common, "--policy-setting", f"steps={n}").json for n in (100, 200))
    assert many["stages"]["train"] > 1.5 * few["stages"]["train"]
    assert many["stages"]["localise"] == few["stages"]["localise"]
    slim = grail(*common, "--adapter", adapter).json
    assert slim["memory"]["train"]["masks"] == 2 * 2 * (SHAPE["hidden_size"] * 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "llama-8t", "--items", 5), "llama-7b"),
        (("--model", "llama-7b"), "--items"),
        (("--model", "llama-7b", "--items", 5, "--device", "tpu"), "cuda:48GB"),
        (("--model", "llama-7b", "--items", 5, "--device", "cuda:lots"), "cuda:48GB"),
        (("--model", "llama-7b", "--items", 5, "--policy-setting", "stepps=5"), "steps"),
        (("--model", "llama-7b", "--items", 5, "--policy-setting", "steps=-5"), "steps"),
        (("--model", "llama-7b", "--items", 5, "--policy-setting", "steps=many"), "kind of value"),
        (("--model", "llama-7b", "--items", 5, "--precision", "fp8"), "bf16"),
        (("--model", "llama-7b", "--items", 5, "--quantisation", "int2"), "nf4"),
        (("--model", "llama-7b", "--items", 5, "--adapter", "/nowhere"), "adapter_config.json"),
        (("--model", "llama-7b", "--items", 5, "--device", "h100", "--measure"), "processor"),
    ],
)
def test_what_can_not_be_planned_is_said(grail: Grail, arguments: tuple[object, ...], said: str) -> None:
    assert said in grail("plan", *arguments, expect=1).err


def test_another_kind_of_model_and_an_empty_file_are_refused(grail: Grail, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_embd": 8}', encoding="utf-8")
    assert "Llama kind" in grail("plan", "--model", tmp_path, "--items", 5, expect=1).err
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    assert "no fact" in grail("plan", "--model", "llama-7b", "--requests", empty, expect=1).err


def test_the_processor_can_be_measured(grail: Grail) -> None:
    found = grail("plan", "--model", "llama-7b", "--items", 5, "--measure", "--json").json
    assert found["device"]["flop_per_second"] > 0
    assert "measured" in found["device"]["basis"]
