"""Kinds of models that are said to be served, each tiny and random: what is ours equals what the model itself does."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import (
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)

from grail.data.ability import Question
from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.localise.gradients import NotPerExample, per_example_gradients
from grail.metrics.choices import loglikelihoods
from grail.metrics.likelihood import forced, free_answers
from grail.model.adapter import adapter_parameters
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel, load_model
from grail.types import Example, Segment
from tests.fixtures.tiny_model import byte_tokenizer
from tests.grail.oracles import example_gradient

WINDOW = 8
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, functools.partial[PretrainedConfig]] = {
    "llama": functools.partial(LlamaConfig),
    "mistral, sliding": functools.partial(MistralConfig, sliding_window=WINDOW),
    "qwen2": functools.partial(Qwen2Config),
    "qwen3, sliding": functools.partial(Qwen3Config, head_dim=8, use_sliding_window=True, **SLIDING),
    "gemma 2, capped": functools.partial(Gemma2Config, head_dim=8, final_logit_softcapping=3.0, **SLIDING),
    "gemma 3": functools.partial(Gemma3TextConfig, head_dim=8, **SLIDING),
    "granite, scaled": functools.partial(GraniteConfig, logits_scaling=4.0),
    "cohere, scaled": functools.partial(CohereConfig, logit_scale=0.25),
}
LENGTHS = ((4, 19), (9, 12), (6, 5))
"""Prompt and completion tokens: some texts are longer than the window, some rows are padded."""


def make(place: Path, config: Any, precision: str = "fp32", targets: Any = "all-linear") -> LoadedModel:
    from transformers import AutoModelForCausalLM

    tokenizer = byte_tokenizer()
    whole = config(**SIZES, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=256, eos_token_id=257)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(whole).save_pretrained(place)
    tokenizer.save_pretrained(place)
    model = load_model(
        place, None, precision=precision, lora=LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for parameter in adapter_parameters(model.model).values():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    return make(tmp_path / "base", FAMILIES[request.param])


def texts() -> list[TokenisedExample]:
    generator = torch.Generator().manual_seed(3)
    rows = []
    for number, (prompt, completion) in enumerate(LENGTHS):
        ids = torch.randint(1, 250, (prompt + completion,), generator=generator).tolist()
        rows.append(TokenisedExample(str(number), (*ids, 257), prompt))
    return rows


def test_logits_are_those_of_the_model_itself(model: LoadedModel) -> None:
    batch = pad(texts(), model.pad_id)
    with torch.no_grad():
        own = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        ours = completion_logits(model, batch)
    torch.testing.assert_close(ours, own[batch.rows, batch.positions].float(), rtol=1e-4, atol=1e-5)


def test_gradients_of_each_example_are_those_of_one_at_a_time(model: LoadedModel) -> None:
    rows = texts()
    found: dict[str, torch.Tensor] = {}
    with per_example_gradients(model.model, 1, found.__setitem__):
        batch = pad(rows, model.pad_id)
        completion_nll(completion_logits(model, batch), batch).sum().backward()
    for parameter in adapter_parameters(model.model).values():
        parameter.grad = None
    for place, row in enumerate(rows):
        for name, expected in example_gradient(model, [row]).items():
            torch.testing.assert_close(found[name][place], expected, rtol=1e-3, atol=1e-5)


def test_an_answer_read_off_the_teacher_forced_pass_is_the_generated_one(model: LoadedModel) -> None:
    rows = texts()
    asked = [Example(row.id, "privacy", Segment.FORGET, "s", "prompt", "completion") for row in rows]
    seen: list[bool] = []
    handle = model.model.get_base_model().lm_head.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].is_contiguous())
    )
    whole = free_answers(model, asked, rows, 4, 64)
    handle.remove()
    assert seen and all(seen)  # a strided input would copy the output matrix once for each row
    assert free_answers(model, asked, rows, 4, 64, known=forced(model, rows, 4)) == whole


def test_choices_are_as_likely_as_the_model_itself_finds_them(model: LoadedModel) -> None:
    context, choices = "Longer than the window:", ("a choice longer than it, too", "short", "x", "y", "not so short")
    other = Question("t/1", "t", "t", "Q:", ("no", "yes"), 0)
    found = loglikelihoods(model, [Question("t/0", "t", "t", context, choices, 0), other], 8)
    assert len(found[1]) == 2
    for choice, value in zip(choices, found[0], strict=True):
        ids = torch.tensor([model.tokenizer.encode(f"{context} {choice}", add_special_tokens=True)])
        with torch.no_grad():
            logits = model.model(input_ids=ids, use_cache=False).logits[0].double()
        start, rows = len(context), logits.log_softmax(dim=-1)
        expected = sum(float(rows[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))
        assert value == pytest.approx(expected, rel=1e-4)


def test_a_layer_that_sees_no_whole_sequences_is_named(tmp_path: Path) -> None:
    shared = functools.partial(
        Qwen2MoeConfig, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, decoder_sparse_step=1,
    )  # fmt: skip
    model = make(tmp_path / "base", shared, targets=["q_proj", "gate_proj"])
    batch = pad(texts(), model.pad_id)
    with per_example_gradients(model.model, 1, lambda *_: None), pytest.raises(NotPerExample, match="shared_expert"):
        completion_logits(model, batch)
