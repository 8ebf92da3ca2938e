"""Job inputs -> RunSpec: the single crossing of types between the service and the library."""

from __future__ import annotations

from pathlib import Path

from app.adapters.files import WEIGHTS, file_digest
from app.inputs.service import JobInputs
from grail.config import GateConfig, RunSpec, UnlearnConfig
from grail.types import Kind


def run_spec(inputs: JobInputs) -> RunSpec:
    """The run that a job asks for. Raises ValueError for settings that make no sense, OSError."""
    reference = Path(inputs.reference_adapter_path) if inputs.reference_adapter_path else None
    return RunSpec(
        base_model=Path(inputs.base_model_path),
        base_digest=inputs.base_model_digest,
        adapter=Path(inputs.start_adapter.directory),
        adapter_digest=inputs.start_adapter.digest,
        reference_adapter=reference,
        reference_digest=file_digest(reference / WEIGHTS) if reference else "adapter-off",
        prompt_template=inputs.prompt_template,
        unlearn=UnlearnConfig(**inputs.settings["unlearn"]),
        gate=GateConfig(**inputs.gate),
        examples=inputs.examples,
        kind=Kind(inputs.kind),
        ability_file=None if inputs.ability_file is None else Path(inputs.ability_file),
        ability_questions=inputs.ability_questions,
    )
