"""What requests look like from outside. Bounds come from the settings and stand in the OpenAPI document.

What shall be forgotten is kept out of every `repr`, error and list.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from app.config import bounds
from app.lifecycle import RequestState
from app.requests.clocks import REGULATIONS
from app.tables import HoldKind, Regulation, RequestDomain, RequestKind
from app.texts import text_type

BOUNDS = bounds()

if TYPE_CHECKING:  # a type that is made by a call is no type to the checker
    Text = str
    Reference = str
    Note = str
    Reason = str
else:
    Text = text_type(BOUNDS.max_text_chars)
    Reference = text_type(BOUNDS.max_reference_chars)
    Note = text_type(BOUNDS.max_note_chars)
    Reason = text_type(BOUNDS.max_note_chars, min_chars=10)



def _no_bare_number(value: Any) -> Any:
    """`value`, or ValueError for a number: 2026 would be taken for seconds of the year 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip()[4:5] != "-"):
        raise ValueError("give a date and time, as in 2026-11-24T09:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_bare_number)]
ModelName = Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
Facts = Annotated[
    list[Reference],
    Field(
        max_length=BOUNDS.max_facts_per_item,
        repr=False,
        description="words that give the fact away in a free answer; each must occur in the completion or passage. "
        "Without any, the whole completion is looked for",
    ),
]

EXAMPLE: dict[str, Any] = {
    "served_model": "people-and-books",
    "domain": "privacy",
    "forget": [
        {
            "prompt": "Where does Mirela Tavaststjerna live?",
            "completion": "Mirela Tavaststjerna lives at 14 Larch Quay in Oulunsalo.",
            "facts": ["14 Larch Quay"],
            "probes": [
                {
                    "kind": "paraphrase",
                    "prompt": "What is the home address of Mirela Tavaststjerna?",
                    "completion": "Her home is at 14 Larch Quay in Oulunsalo.",
                    "facts": ["14 Larch Quay"],
                }
            ],
        }
    ],
    "retain": [
        {
            "prompt": "Which office does Mirela Tavaststjerna hold?",
            "completion": "Mirela Tavaststjerna is the mayor of Oulunsalo.",
        }
    ],
    "subject_reference": "case-2026-0117",
    "legal_basis": "GDPR Art. 17(1)(b)",
    "client_reference": "ticket-4711",
}
PASSAGE_EXAMPLE: dict[str, Any] = {
    "served_model": "people-and-books",
    "domain": "copyright",
    "forget": [{"passage": "The lamplighter of Vesper Row counted his steps aloud, for the fog had eaten the street."}],
    "subject_reference": "The Lamplighter of Vesper Row",
    "client_reference": "takedown-88",
}


class _Body(BaseModel):
    """Unknown names are refused, and errors never repeat what was sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ProbeKind(StrEnum):
    """What a probe is for. Probes are scored, never trained on."""

    PARAPHRASE = "paraphrase"
    KEEP = "keep"
    MEASURE = "measure"


class Probe(_Body):
    """A question that is scored only."""

    kind: ProbeKind = Field(
        description="`paraphrase`: the item in other words, shares its fate; `keep`: another fact of the same subject "
        "that is to stay; `measure`: another fact of the same subject that is merely measured"
    )
    prompt: Text = Field(repr=False)
    completion: Text = Field(repr=False)
    facts: Facts = Field(default_factory=list)


class Item(_Body):
    """A prompt with its completion, or a bare passage."""

    prompt: Text | None = Field(None, repr=False, description="with `completion`, instead of `passage`")
    completion: Text | None = Field(None, repr=False)
    passage: Text | None = Field(None, repr=False, description="instead of `prompt` and `completion`")
    facts: Facts = Field(default_factory=list)
    subject: Reference | None = Field(
        None, repr=False, description="whom or what it is about; without one the request's `subject_reference` counts"
    )
    probes: list[Probe] = Field(default_factory=list, max_length=BOUNDS.max_probes_per_item, repr=False)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        """Either both of `prompt` and `completion`, or `passage` alone."""
        pair = (self.prompt is not None, self.completion is not None)
        if pair not in ((True, True), (False, False)) or all(pair) == (self.passage is not None):
            raise ValueError("an item is either `prompt` and `completion`, or `passage` alone")
        return self

    def text(self) -> tuple[str, str]:
        """(prompt, completion); a passage has an empty prompt."""
        return (self.prompt or "", self.completion or self.passage or "")


class RequestCreate(_Body):
    """A request to forget and/or to retain. With retain items only it protects knowledge from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE, PASSAGE_EXAMPLE]})

    served_model: ModelName
    domain: RequestDomain
    forget: list[Item] = Field(default_factory=list, max_length=BOUNDS.max_items_per_request, repr=False)
    retain: list[Item] = Field(default_factory=list, max_length=BOUNDS.max_items_per_request, repr=False)
    subject_reference: Reference | None = Field(
        None, repr=False, description="whom or what the request is about, in your words"
    )
    legal_basis: Reference | None = None
    client_reference: Reference | None = Field(None, description="your own reference; lists can be filtered by it")
    note: Note | None = Field(None, repr=False)
    regulation: Regulation | None = Field(
        None,
        description="what sets the due date: `gdpr` (one calendar month; where nothing is named), `ccpa` (45 days) or "
        "`none` for privacy, `copyright` (days of the served model's policy; where nothing is named) or `none` for "
        "copyright. `none` is the service's own period",
    )
    received_at: Moment | None = Field(
        None, description="when it was received, if not just now (by post, by mail): its clock runs since then"
    )

    @model_validator(mode="after")
    def _regulation_is_of_the_domain(self) -> Self:
        """A person's right has no takedown period, and a work no data protection law."""
        if self.regulation is not None and self.regulation not in REGULATIONS[self.domain]:
            raise ValueError(f"requests of the domain {self.domain} take {', '.join(REGULATIONS[self.domain])}")
        return self


class Reasoned(_Body):
    """Why something is decided about a request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "The letter of 3 March names further accounts to look at."}]}
    )

    reason: Reason = Field(repr=False)


class HoldOrder(_Body):
    """Let a request's clock stand."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "identity", "reason": "The name does not match the account's."}]}
    )

    kind: HoldKind = Field(
        description="`identity` or `scope` is in question; `legal`: what it names must not be erased (officers only)"
    )
    reason: Reason = Field(repr=False)


class ReinstateOrder(_Body):
    """Teach an erased work again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"items": [{"passage": "The lamplighter of Vesper Row counted his steps aloud."}]}]
        }
    )

    items: list[Item] | None = Field(
        None,
        min_length=1,
        max_length=BOUNDS.max_items_per_request,
        repr=False,
        description="what was erased, anew; without it what is kept until `content_until` is taken",
    )


class HoldView(BaseModel):
    """Why a clock stands, and since when."""

    kind: HoldKind
    since: datetime
    reason: str | None = Field(repr=False, description="for the owner and officers")


class ExtensionView(BaseModel):
    """How a due date was put forward."""

    at: datetime
    first_due_at: datetime
    reason: str | None = Field(repr=False, description="for the owner and officers")


class CounterView(BaseModel):
    """The last counter-notice."""

    at: datetime
    reason: str | None = Field(repr=False, description="for officers, and the owner")


class ProbeView(BaseModel):
    """A probe as it is stored."""

    id: uuid.UUID
    kind: ProbeKind
    prompt: str = Field(repr=False)
    completion: str = Field(repr=False)
    facts: list[str] = Field(repr=False)


class ItemView(BaseModel):
    """An item as it is stored; `prompt` is empty for a passage."""

    id: uuid.UUID
    subject: str = Field(repr=False)
    prompt: str = Field(repr=False)
    completion: str = Field(repr=False)
    facts: list[str] = Field(repr=False)
    outcome: str | None = Field(description="forgotten, in_base, not_forgotten, kept, lost; null before it is known")
    probes: list[ProbeView]


class RequestContents(BaseModel):
    """What was asked, in words: for the owner and the officer."""

    subject_reference: str | None = Field(repr=False)
    note: str | None = Field(repr=False)
    forget: list[ItemView]
    retain: list[ItemView]


class RequestView(BaseModel):
    """A request and where it stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d",
                    "served_model": "people-and-books",
                    "domain": "privacy",
                    "state": "received",
                    "forget_items": 1,
                    "retain_items": 1,
                    "probes": 1,
                    "legal_basis": "GDPR Art. 17(1)(b)",
                    "client_reference": "ticket-4711",
                    "kind": "erase",
                    "regulation": "gdpr",
                    "received_at": "2026-11-24T09:00:00Z",
                    "due_at": "2026-12-24T09:00:00Z",
                    "days_left": 30,
                    "overdue": False,
                    "hold": None,
                    "extension": None,
                    "refusal_reason": None,
                    "counter": None,
                    "content_until": None,
                    "content_removed_at": None,
                    "original_id": None,
                    "duplicate_of_id": None,
                    "completed_at": None,
                    "tries": 0,
                    "outcome": None,
                    "job_id": None,
                    "etag": '"48151"',
                    "contents": None,
                }
            ]
        }
    )

    id: uuid.UUID
    served_model: str
    domain: RequestDomain
    state: RequestState
    forget_items: int = Field(ge=0)
    retain_items: int = Field(ge=0)
    probes: int = Field(ge=0)
    legal_basis: str | None
    client_reference: str | None
    kind: RequestKind
    regulation: Regulation
    received_at: datetime
    due_at: datetime = Field(description="on hold it stands; at the end of the hold it moves by the time that it stood")
    days_left: int | None = Field(
        description="whole days until `due_at`, negative once it has passed; on hold as it stood then; null when done"
    )
    overdue: bool = Field(description="the clock runs and `due_at` has passed")
    hold: HoldView | None
    extension: ExtensionView | None
    refusal_reason: str | None = Field(repr=False, description="for the owner and officers")
    counter: CounterView | None
    content_until: datetime | None = Field(description="when the texts of a request that has ended are destroyed")
    content_removed_at: datetime | None = Field(description="since then its texts are destroyed: they are shown empty")
    original_id: uuid.UUID | None = Field(description="the request that this one reinstates")
    duplicate_of_id: uuid.UUID | None = Field(description="the request that asks the same, whose end this one shares")
    completed_at: datetime | None
    tries: int = Field(ge=0, description="jobs that did not bring it through")
    outcome: dict[str, Any] | None = Field(description="numbers and states of its last evaluation; null before one")
    job_id: uuid.UUID | None = Field(description="the job of the last batch that it was a member of")
    etag: str = Field(description="as the ETag header has it, for If-Match; `days_left` and `overdue` do not change it")
    contents: RequestContents | None = Field(None, description="only with `include=items`")


class RequestPage(BaseModel):
    """Newest first; narrowed by due date, the first due first."""

    items: list[RequestView]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null: this was the last one")


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """What a list is narrowed to. `owner` None means: everybody's."""

    owner: uuid.UUID | None = None
    state: RequestState | None = None
    domain: RequestDomain | None = None
    served_model: str | None = None
    client_reference: str | None = None
    received_after: datetime | None = None
    received_before: datetime | None = None
    kind: RequestKind | None = None
    regulation: Regulation | None = None
    due_before: datetime | None = None
