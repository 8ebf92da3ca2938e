"""The demo's data keep what its measures rest on: a fact stands in its answers, in no question, in nobody else's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.facts import EXAMPLES, Fact, demo_facts, read_facts, subjects
from cli.failures import CommandFailed
from grail.metrics.rouge import holds_fact, normalise

FACTS = demo_facts()
ADAPTER = EXAMPLES / "adapter"
MOST_ADAPTER_BYTES = 10_000_000


def asked(fact: Fact) -> list[tuple[str, str]]:
    return [(fact.prompt, fact.completion), *fact.paraphrases]


def others(fact: Fact) -> Iterator[Fact]:
    return (other for other in FACTS if other is not fact)


def test_there_are_twelve_people_and_twelve_works_with_five_facts_of_each_kind() -> None:
    for domain in ("privacy", "copyright"):
        names = subjects(FACTS, domain)
        assert len(names) >= 12
        for segment in ("forget", "retain"):
            counts = Counter(fact.subject for fact in FACTS if fact.domain == domain and fact.segment == segment)
            assert set(counts) == set(names) and min(counts.values()) >= 5


def test_every_fact_has_two_paraphrases_and_no_question_is_asked_twice() -> None:
    assert {len(fact.paraphrases) for fact in FACTS} == {2}
    questions = Counter(normalise(prompt) for fact in FACTS for prompt, _ in asked(fact))
    assert [prompt for prompt, times in questions.items() if times > 1] == []


def test_every_fact_is_named_once() -> None:
    assert max(Counter(normalise(fact.fact) for fact in FACTS).values()) == 1


def test_a_fact_stands_in_each_of_its_answers_and_in_none_of_its_questions() -> None:
    for fact in FACTS:
        for prompt, completion in asked(fact):
            assert holds_fact(completion, [fact.fact], completion), completion
            assert not holds_fact(prompt, [fact.fact], completion), prompt


def test_a_fact_stands_in_no_question_or_answer_of_any_other_fact() -> None:
    for fact in FACTS:
        for other in others(fact):
            for text in (text for pair in asked(other) for text in pair):
                assert not holds_fact(text, [fact.fact], text), (fact.fact, text)


def test_every_question_of_a_subject_names_it() -> None:
    for fact in FACTS:
        for prompt, _ in asked(fact):
            assert fact.subject in prompt, prompt


def test_mail_addresses_are_reserved_for_examples() -> None:
    for fact in FACTS:
        for _, completion in asked(fact):
            for word in (word.strip(".,;") for word in completion.split() if "@" in word):
                assert word.endswith(("@example.com", "@example.org", "@example.net")), word


def test_the_item_of_a_request_carries_its_paraphrases_as_probes() -> None:
    item = FACTS[0].as_item()
    assert [probe["kind"] for probe in item["probes"]] == ["paraphrase", "paraphrase"]
    assert {probe["prompt"] for probe in item["probes"]} == {prompt for prompt, _ in FACTS[0].paraphrases}
    assert all(probe["facts"] == item["facts"] == [FACTS[0].fact] for probe in item["probes"])


@pytest.mark.parametrize("line", ["{", '{"subject": "s"}', '{"paraphrases": [], "subject": "s", "surplus": 1}'])
def test_a_line_that_is_no_fact_is_named(tmp_path: Path, line: str) -> None:
    good = (EXAMPLES / "people.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "facts.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(CommandFailed, match=r"facts\.jsonl, line 2"):
        read_facts(tmp_path / "facts.jsonl")


def test_the_shipped_adapter_is_small_in_bf16_and_names_no_machine() -> None:
    weights = ADAPTER / "adapter_model.safetensors"
    assert weights.stat().st_size <= MOST_ADAPTER_BYTES
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    shapes = {min(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    assert (kinds, shapes) == ({"BF16"}, {16})
    config = json.loads((ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == 16 and set(config["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert "/" not in config["base_model_name_or_path"]
