"""What goes in and out about served models."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from app.config import bounds
from app.errors import FIELD
from app.served_models.breaker import BreakerState
from app.tables.example import ExampleDomain
from app.tables.request import RequestDomain
from app.texts import text_type
from grail.config import (
    CHECKPOINTING,
    MASK_RULES,
    METHODS,
    OBJECTIVES,
    PRECISIONS,
    REGIONS,
    RETAIN_OBJECTIVES,
    RETAIN_SOURCES,
    SCORES,
    STRATEGY,
    GateConfig,
    UnlearnConfig,
)

BOUNDS = bounds()

if TYPE_CHECKING:
    Text = str
    Reference = str
    PathText = str
    Template = str
else:
    Text = text_type(BOUNDS.max_text_chars)
    Reference = text_type(BOUNDS.max_reference_chars)
    PathText = text_type(1024)
    Template = text_type(4000)

CHATML = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
STRATEGY_SAYS = (
    "`combined`: all domains in one run. Names of domains with > between (`privacy>copyright`): one run after another, "
    "each from what the one before left. A domain that is not named is not unlearned: its requests end as not "
    "forgotten, and the gate refuses the candidate; a batch of which no domain is named fails."
)
OPTIONS_SAY = "Settings of the method's and the objective's own: GET /v1/methods lists them with their defaults."
OWN = ("",)  # what the method or the objective presets
SETTING_WORDS = {
    "method": METHODS, "objective": OBJECTIVES + OWN, "retain_objective": RETAIN_OBJECTIVES + OWN,
    "retain_source": RETAIN_SOURCES + OWN, "score": SCORES, "regions": REGIONS + OWN, "mask_rule": MASK_RULES + OWN,
    "precision": PRECISIONS, "activation_checkpointing": CHECKPOINTING,
}  # fmt: skip
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Lower case, digits and hyphens.")]


def _known_settings(value: Any, known: type[UnlearnConfig | GateConfig]) -> Any:
    """`value`, or ValueError when it names settings that there are not: a slip must not pass for a change."""
    if isinstance(value, dict) and (strangers := set(value) - {field.name for field in fields(known)}):
        named = sorted(name for name in strangers if isinstance(name, str) and FIELD.fullmatch(name))
        raise ValueError(f"unknown settings: {', '.join(named[:5]) or 'names that no setting could have'}")
    return value


class _WordsShown:
    """Shows in the OpenAPI document which words a setting takes."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        shown = handler(schema)
        properties = handler.resolve_ref_schema(shown)["properties"]
        for name, words in SETTING_WORDS.items():
            properties[name]["enum"] = list(words)
        properties["strategy"] |= {"pattern": f"^({STRATEGY.pattern})$", "description": STRATEGY_SAYS}
        properties["options"]["description"] = OPTIONS_SAY
        return shown


Unlearn = Annotated[UnlearnConfig, _WordsShown()]


class Policy(BaseModel):
    """How a served model's requests are batched, unlearned and judged."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    max_requests_per_batch: int = Field(32, ge=1, le=10_000)
    window_seconds: float = Field(
        300.0, ge=0, le=31 * 86400, description="Age of the oldest request that closes a batch."
    )
    due_margin_days: float = Field(7.0, ge=0, le=365, description="A request due this soon closes the batch.")
    retain_per_forget: float = Field(
        1.5, ge=0, le=100, description="Retain items per forget item; what requests lack comes from the standing set."
    )
    earlier_items: int = Field(
        40, ge=0, le=10_000, description="Items of earlier erasures that each job measures again, per domain, at most."
    )
    copyright_due_days: int = Field(
        30, ge=1, le=365, description="From the receipt of a copyright notice to its due date."
    )
    validate_notices: bool = Field(
        False, description="Copyright requests start as notices: an officer validates each before it is batched."
    )
    counter_notice_days: int = Field(
        14, ge=0, le=365, description="How long after the erasure its content is kept for a counter-notice."
    )
    privacy_content_days: int = Field(
        90, ge=0, le=3650, description="How long erased facts about persons are kept and measured with later versions."
    )
    ended_content_days: int = Field(
        30, ge=0, le=3650, description="How long the texts of refused, withdrawn and failed requests are kept."
    )
    superseded_weights_days: int = Field(
        30, ge=0, le=3650, description="How long weights of superseded and rejected versions are kept."
    )
    require_approval: bool = Field(False, description="An officer must approve before a candidate is published.")
    approvals_required: int = Field(
        1, ge=1, le=2, description="Different officers who must; 2 asks for approval whatever `require_approval` is."
    )
    ability_file: PathText | None = Field(
        None,
        description="JSON lines of multiple-choice questions (`question`, `choices`, `answer` as an index) below one "
        "of the roots of GRAIL_MODEL_ROOTS: each job answers them before and after, for the report's general ability.",
    )
    ability_questions: int = Field(200, ge=1, le=10_000, description="How many of them are drawn, at most.")
    unlearn: Unlearn = Field(default_factory=UnlearnConfig)
    gate: GateConfig = Field(default_factory=GateConfig)

    @property
    def asks_officers(self) -> bool:
        """Whether a candidate waits for officers."""
        return self.require_approval or self.approvals_required > 1

    @field_validator("unlearn", mode="before")
    @classmethod
    def _unlearn_is_known(cls, value: Any) -> Any:
        return _known_settings(value, UnlearnConfig)

    @field_validator("unlearn")
    @classmethod
    def _strategy_names_domains(cls, value: UnlearnConfig) -> UnlearnConfig:
        named = set() if value.strategy == "combined" else set(value.strategy.split(">"))
        if strangers := sorted(named - set(RequestDomain)):
            raise ValueError(
                f"strategy names {', '.join(strangers)[:80]}: requests are of the domains {', '.join(RequestDomain)}"
            )
        return value

    @field_validator("gate", mode="before")
    @classmethod
    def _gate_is_known(cls, value: Any) -> Any:
        return _known_settings(value, GateConfig)


class ModelCreate(BaseModel):
    """Register a base model with the adapter that it is served with."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "support",
                    "base_model_path": "/models/smollm2-135m",
                    "adapter_path": "/models/support-adapter",
                }
            ]
        },
    )

    name: Name
    base_model_path: PathText
    adapter_path: PathText
    reference_adapter_path: PathText | None = None
    prompt_template: Template = CHATML
    policy: Policy = Field(default_factory=Policy)

    @field_validator("prompt_template")
    @classmethod
    def _one_prompt(cls, value: str) -> str:
        return one_prompt(value)


def one_prompt(value: str) -> str:
    """`value`, or ValueError unless it holds {prompt} exactly once."""
    if value.count("{prompt}") != 1:
        raise ValueError("the prompt template must hold {prompt} exactly once")
    return value


class ModelPatch(BaseModel):
    """What may change; fields left out stay. The policy is merged, field by field."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"policy": {"window_seconds": 60, "gate": {"min_rs": 90}}}]}
    )

    prompt_template: Template | None = None
    policy: dict[str, Any] | None = None

    @field_validator("prompt_template")
    @classmethod
    def _one_prompt(cls, value: str | None) -> str | None:
        return None if value is None else one_prompt(value)


class ActiveAdapter(BaseModel):
    """The version that the alias points to."""

    version: int
    name: str
    digest: str


class BreakerView(BaseModel):
    """Whether jobs of the model may start. Requesters are not told the reason."""

    state: BreakerState
    failures: int = Field(ge=0, description="jobs in a row that failed for no fault of their requests")
    opened_at: datetime | None
    tries_again_at: datetime | None = Field(description="when one job may try; null while it is closed")
    reason: dict[str, Any] | None = Field(description="the last such failure, with how to mend it")


class ModelView(BaseModel):
    """A served model. A requester is not told where files lie."""

    name: str
    base_model_path: str | None
    base_model_digest: str
    reference_adapter_path: str | None
    prompt_template: str
    context_tokens: int
    policy: Policy
    active_adapter: ActiveAdapter | None
    alias_revision: int
    created_at: datetime
    updated_at: datetime
    breaker: BreakerView
    etag: str = Field(description="as the ETag header has it, for If-Match")


class ModelList(BaseModel):
    """All served models, by name."""

    items: list[ModelView]


class RetainProbe(BaseModel):
    """The item's fact asked in other words: scored, never trained on."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text
    completion: Text
    facts: list[Text] = Field(default_factory=list, max_length=BOUNDS.max_facts_per_item)


class RetainItem(BaseModel):
    """One piece of knowledge to protect: prompt and completion, or a passage."""

    model_config = ConfigDict(extra="forbid")

    domain: ExampleDomain = Field(
        description="That of the requests beside which it stands; `general` is instruction data for methods whose "
        "`retain_source` is general."
    )
    subject: Reference
    prompt: Text | None = None
    completion: Text | None = None
    passage: Text | None = None
    facts: list[Text] = Field(default_factory=list, max_length=BOUNDS.max_facts_per_item)
    probes: list[RetainProbe] = Field(default_factory=list, max_length=BOUNDS.max_probes_per_item)

    @model_validator(mode="after")
    def _one_shape(self) -> RetainItem:
        question = self.prompt is not None and self.completion is not None and self.passage is None
        passage = self.passage is not None and self.prompt is None and self.completion is None
        if not (question or passage):
            raise ValueError("give prompt and completion, or a passage alone")
        return self


class RetainSetPut(BaseModel):
    """Replaces the operator's standing retain set, whole."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"domain": "privacy", "subject": "jdoe", "prompt": "Who is J. Doe?", "completion": "A poet."}
                    ]
                }
            ]
        },
    )

    items: list[RetainItem] = Field(max_length=BOUNDS.max_retain_set_items)


class RetainSetResult(BaseModel):
    """What became of the items: `refused_erased` are being forgotten or were, and were left out."""

    added: int
    kept: int
    removed: int
    refused_erased: int


class RetainSetView(BaseModel):
    """Counts only: the set itself is as sensitive as the model."""

    items: dict[str, int]
    subjects: dict[str, int]
