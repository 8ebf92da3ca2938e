"""Batched scores and answers equal those of one example at a time, whatever stands beside it in the batch."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from grail.data.tokenise import TokenisedExample
from grail.evaluate import accuracies, measure
from grail.metrics import likelihood
from grail.metrics.base import ExampleScore
from grail.metrics.likelihood import (
    ANSWER_SLACK,
    NonFiniteScore,
    begun,
    forced,
    free_answers,
    label_bound,
    question,
    together,
)
from grail.model.adapter import adapter_off, adapter_parameters
from grail.model.load import LoadedModel, load_model
from grail.types import Example, Progress, Segment
from tests.fixtures.tiny_model import (
    tiny_adapter_directory,
    tiny_base_directory,
    tiny_model,
)

__all__ = ["tiny_adapter_directory", "tiny_base_directory", "tiny_model"]

TEXTS = [
    ("Where does Ann live?", "In Oslo."),
    ("Who?", "Nobody knows, and nobody asked for a very long time."),
    ("", "A passage without any question, which goes on for a while and then ends."),
    ("What is it that was said on the second day of the third month?", "Yes"),
    ("", "x"),
    ("Größe?", "zwölf Ellen 🙂"),
]


def examples(texts: Sequence[tuple[str, str]] = TEXTS) -> list[Example]:
    return [Example(f"e{i}", "privacy", Segment.FORGET, f"s{i}", p, c) for i, (p, c) in enumerate(texts)]


def logits_of(model: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.model(input_ids=torch.tensor([list(ids)])).logits[0]
    return out


def slow_forced(model: LoadedModel, example: TokenisedExample) -> tuple[float, float]:
    """Token by token from the whole model's logits."""
    logits = logits_of(model, example.input_ids)
    hits, total = 0, 0.0
    for place in range(example.prompt_length, len(example.input_ids)):
        label = example.input_ids[place]
        hits += int(logits[place - 1].argmax()) == label
        total -= float(logits[place - 1].log_softmax(-1)[label])
    return hits / example.completion_length, total / example.completion_length


def slow_greedy(model: LoadedModel, given: Sequence[int], may: int) -> list[int]:
    """One whole forward pass a token, no cache, no padding."""
    ids = list(given)
    for _ in range(may):
        best = int(logits_of(model, ids)[-1].argmax())
        if best == model.tokenizer.eos_token_id:
            break
        ids.append(best)
    return ids[len(given) :]


def close(one: ExampleScore, other: ExampleScore) -> bool:
    same = (one.accuracy, one.answer, one.rouge_l_forced, one.rouge_l_free, one.holds_fact) == (
        other.accuracy, other.answer, other.rouge_l_forced, other.rouge_l_free, other.holds_fact,
    )  # fmt: skip
    return same and math.isclose(one.nll, other.nll, rel_tol=1e-5)


def test_forced_scores_equal_the_token_by_token_definition(tiny_model: LoadedModel) -> None:
    rows = [tiny_model.tokenise(example) for example in examples()]
    found = forced(tiny_model, rows, 4)
    for row in rows:
        accuracy, nll = slow_forced(tiny_model, row)
        assert found[row.id].accuracy == pytest.approx(accuracy, abs=1e-12)
        assert found[row.id].nll == pytest.approx(nll, rel=1e-5)
        assert len(found[row.id].best) == row.completion_length
    assert accuracies(tiny_model, rows, 3) == {key: score.accuracy for key, score in found.items()}


def test_free_answers_equal_a_greedy_loop_without_cache_or_padding(tiny_model: LoadedModel) -> None:
    rows = examples()
    found = measure(tiny_model, rows, generate=True, micro_batch=8)
    for example in rows:
        asked = question(tiny_model.tokenise(example), not example.prompt, tiny_model.context_tokens, 256)
        answer = tiny_model.tokenizer.decode(
            slow_greedy(tiny_model, asked.given, asked.may), skip_special_tokens=True
        )
        assert found[example.id].answer == answer.strip()


@pytest.mark.parametrize("knows", [0, 1, 3, 6])
def test_what_the_teacher_forced_pass_tells_of_an_answer_is_what_generation_gives(
    tiny_model: LoadedModel, knows: int
) -> None:
    """Texts that the model knows by heart for their first `knows` tokens, all of them, or all but the end."""
    rows = [example for example in examples() if example.prompt]
    eos = tiny_model.tokenizer.eos_token_id
    tokenised = []
    for example in rows:
        given = tiny_model.tokenise(example)
        context = given.input_ids[: given.prompt_length]
        heart = slow_greedy(tiny_model, context, 6)[:knows]
        other = [(token + 1) % 200 for token in heart[-1:] or [7]]
        tokenised.append(TokenisedExample(example.id, (*context, *heart, *other, eos), given.prompt_length))
    known = forced(tiny_model, tokenised, 4)
    told = free_answers(tiny_model, rows, tokenised, 4, 256, known=known)
    assert told == free_answers(tiny_model, rows, tokenised, 4, 256)
    begun_with = [len(begun(question(row, False, 512, 256), known[row.id]).said) for row in tokenised]
    assert min(begun_with) >= 1  # at least the first greedy token is told


@pytest.mark.parametrize("micro_batch", [1, 2, 32])
def test_no_score_depends_on_what_else_is_in_the_batch(tiny_model: LoadedModel, micro_batch: int) -> None:
    together_ = measure(tiny_model, examples(), generate=True, micro_batch=micro_batch)
    assert list(together_) == [example.id for example in examples()]
    for example in examples():
        alone = measure(tiny_model, [example], generate=True)[example.id]
        assert close(together_[example.id], alone), example.id


def test_long_examples_are_scored_in_slices_with_the_same_result(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [tiny_model.tokenise(example) for example in examples()]
    whole = forced(tiny_model, rows, 8)
    monkeypatch.setattr(likelihood, "LOGIT_BYTES", 7 * 2 * 4 * 258)
    assert label_bound(tiny_model) == 7
    passes: list[int] = []
    real = likelihood.completion_hidden

    def counted(model: LoadedModel, batch: likelihood.PaddedBatch) -> torch.Tensor:
        passes.append(batch.size)
        return real(model, batch)

    monkeypatch.setattr(likelihood, "completion_hidden", counted)
    sliced = forced(tiny_model, rows, 8)
    assert len(passes) == -(-len(rows) // 8)  # only the output matrix is multiplied in slices
    for key, score in whole.items():
        assert (sliced[key].accuracy, sliced[key].best) == (score.accuracy, score.best)
        assert sliced[key].nll == pytest.approx(score.nll, rel=1e-5)


def test_logits_of_one_pass_stay_within_their_bytes(tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = likelihood.head

    def watched(model: LoadedModel, hidden: torch.Tensor) -> torch.Tensor:
        logits = real(model, hidden)
        seen.append(logits.numel() * 4 * 2)
        return logits

    monkeypatch.setattr(likelihood, "LOGIT_BYTES", 100_000)
    monkeypatch.setattr(likelihood, "head", watched)
    measure(tiny_model, examples([("q", "a" * 300), *TEXTS]), generate=False)
    assert len(seen) > 2 and max(seen) <= 100_000


def test_the_models_own_generation_settings_do_not_bend_the_answer(
    tiny_model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    plain = measure(tiny_model, examples(), generate=True)
    own = tiny_model.model.get_base_model().generation_config
    own.repetition_penalty, own.temperature, own.do_sample, own.max_length = 5.0, 0.2, True, 30
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        bent = measure(tiny_model, examples(), generate=True)
    assert {key: score.answer for key, score in bent.items()} == {key: score.answer for key, score in plain.items()}
    assert tiny_model.model.get_base_model().generation_config is own
    assert caplog.records == []


def test_the_reference_is_measured_with_the_adapter_off(tiny_model: LoadedModel) -> None:
    with_it = measure(tiny_model, examples(), generate=True)
    with adapter_off(tiny_model.model):
        without = measure(tiny_model, examples(), generate=True)
    assert all(with_it[key].nll != without[key].nll for key in with_it)
    for parameter in adapter_parameters(tiny_model.model).values():
        parameter.data.zero_()
    zeroed = measure(tiny_model, examples(), generate=True)
    assert all(close(zeroed[key], without[key]) for key in zeroed)


def test_a_passage_is_given_its_first_quarter_and_a_prompt_is_given_whole(tiny_model: LoadedModel) -> None:
    passage = tiny_model.tokenise(Example("p", "copyright", Segment.FORGET, "s", "", "abcdefgh"))
    asked = question(passage, True, 512, 256)
    assert len(asked.given) == 1 + 2 and len(asked.wanted) == 6
    assert tiny_model.tokenizer.decode(asked.wanted, skip_special_tokens=True) == "cdefgh"
    short = tiny_model.tokenise(Example("p", "copyright", Segment.FORGET, "s", "", "a"))
    assert len(question(short, True, 512, 256).wanted) == 1
    prompted = tiny_model.tokenise(Example("q", "copyright", Segment.FORGET, "s", "ask", "abcdefgh"))
    asked = question(prompted, False, 512, 256)
    assert len(asked.given) == prompted.prompt_length and asked.may == 8 + ANSWER_SLACK


def test_answers_stop_at_the_cap_and_at_the_context(tiny_model: LoadedModel) -> None:
    row = tiny_model.tokenise(examples()[1])
    assert question(row, False, 512, 5).may == 5
    assert question(row, False, row.prompt_length + 3, 256).may == 3
    long = [Example(f"l{i}", "privacy", Segment.FORGET, "s", "q" * (460 - 90 * i), "word " * 3) for i in range(4)]
    questions = [question(tiny_model.tokenise(e), False, 512, 256) for e in long]
    chunks = list(together(questions, 32, 512))
    assert sorted(q.id for chunk in chunks for q in chunk) == ["l0", "l1", "l2", "l3"]
    assert all(max(len(q.given) for q in c) + max(q.may for q in c) <= 512 for c in chunks)


def test_generation_is_split_by_tokens_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [likelihood.Question(f"{i:03}", (1,) * 20, (2,) * 10, 22) for i in range(100)]
    monkeypatch.setattr(likelihood, "TOKENS_AT_ONCE", 42 * 10)
    assert [len(chunk) for chunk in together(questions, 32, 512)] == [10] * 10


def test_a_broken_adapter_is_named_by_example_id_and_gives_no_figure(tiny_model: LoadedModel) -> None:
    next(iter(adapter_parameters(tiny_model.model).values())).data.fill_(math.nan)
    with pytest.raises(NonFiniteScore, match="example e") as caught:
        measure(tiny_model, examples(), generate=False)
    assert not any(text and text in str(caught.value) for pair in TEXTS for text in pair if len(text) > 1)


def test_progress_reaches_one_and_a_listener_that_raises_stops_the_work(tiny_model: LoadedModel) -> None:
    seen: list[Progress] = []
    measure(tiny_model, examples(), generate=True, micro_batch=2, report=seen.append)
    assert seen[-1].share == 1.0 and [p.step for p in seen] == sorted(p.step for p in seen)

    def cancel(_: Progress) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(tiny_model, examples(), generate=False, report=cancel)


def test_a_base_in_bf16_with_adapter_masters_in_fp32_is_scored_too(
    tiny_base_directory: Path, tiny_adapter_directory: Path
) -> None:
    model = load_model(tiny_base_directory, tiny_adapter_directory, precision="bf16")
    found = measure(model, examples(), generate=True)
    assert all(math.isfinite(s.nll) and 0 <= s.accuracy <= 1 and s.answer is not None for s in found.values())


def test_ids_that_repeat_are_refused(tiny_model: LoadedModel) -> None:
    with pytest.raises(ValueError, match="ids repeat"):
        measure(tiny_model, [examples()[0], examples()[0]], generate=False)


def test_an_answer_never_shows_in_a_repr(tiny_model: LoadedModel) -> None:
    score = measure(tiny_model, examples()[:1], generate=True)["e0"]
    assert score.answer is not None and "answer" not in repr(score)
