"""What a dry run answers."""

from __future__ import annotations

import uuid

from pydantic import BaseModel, ConfigDict, Field

from app.tables import BatchReason


class CostEstimate(BaseModel):
    """About what the job would take on the worker's device, from first principles."""

    model_config = ConfigDict(frozen=True)

    seconds: float = Field(ge=0, description="wall-clock seconds of all stages together")
    bytes: int = Field(ge=0, description="peak memory of the worker process")
    stages: dict[str, float] = Field(description="seconds of each stage")


class BatchPreview(BaseModel):
    """What `run now` would do at this moment; nothing is written."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "served_model": "people-and-books",
                    "would_batch": ["01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d"],
                    "forget_items": 5,
                    "retain_items": 15,
                    "tokens": 912,
                    "estimate": {
                        "seconds": 310.5,
                        "bytes": 2400000000,
                        "stages": {"localise": 20.1, "train": 230.2, "select": 30.1, "evaluate": 30.1},
                    },
                    "reason": "manual",
                    "due_to_close": None,
                    "obstacle": None,
                }
            ]
        },
    )

    served_model: str
    would_batch: list[uuid.UUID] = Field(description="requests in the order of their due dates")
    forget_items: int = Field(ge=0)
    retain_items: int = Field(ge=0, description="the requests' own and those drawn from the standing retain set")
    tokens: int = Field(ge=0, description="tokens of all items and probes, prompts and end tokens included")
    estimate: CostEstimate | None = Field(
        description="null when there is nothing to do or the base model's sizes can not be read"
    )
    reason: BatchReason | None = Field(description="why the batch would close; null when there is nothing to batch")
    due_to_close: BatchReason | None = Field(description="why the policy would close it by itself now; null: not yet")
    obstacle: str | None = Field(description="what would make a real run fail, and how to mend it; null: nothing")
