"""How methods and objectives are shown."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Declared(BaseModel):
    """One method or objective, as its file declares it."""

    name: str = Field(description="what a policy names it by")
    says: str = Field(description="what it does, in a sentence")
    fixes: dict[str, str | float] = Field(description="settings that make it what it is: a policy may not set others")
    presets: dict[str, str | float] = Field(description="values of settings that a policy leaves open")
    options: dict[str, str | float] = Field(description="settings of its own (`unlearn.options`) with their defaults")
    limits: dict[str, list[str | float]] = Field(
        description="what an option may be: its lowest and highest number, or all words that it knows"
    )


class MethodList(BaseModel):
    """Everything that `unlearn.method`, `unlearn.objective` and `unlearn.retain_objective` of a policy take."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "methods": [
                        {
                            "name": "grad_ascent",
                            "says": "Gradient ascent: -NLL on forget examples and nothing else (KnowUnDo).",
                            "fixes": {"objective": "ascent", "retain_objective": "none", "regions": "none"},
                            "presets": {"learning_rate": 0.0001},
                            "options": {},
                            "limits": {},
                        }
                    ],
                    "objectives": [],
                    "retain_objectives": [],
                }
            ]
        }
    )

    methods: list[Declared]
    objectives: list[Declared] = Field(description="on what is to be forgotten")
    retain_objectives: list[Declared] = Field(description="on what is to stay; a policy may also say `none`")
