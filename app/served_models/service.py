"""Rules of served models: what may be registered, how policies change, what the standing retain set holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.adapters.files import MANIFEST, base_digest, check_adapter, check_reference, read_config, write_version
from app.adapters.weights_repository import ended_named
from app.audit.service import record
from app.auth import Principal
from app.config import Settings
from app.envelope.columns import codec_of
from app.errors import Conflict, NotFound, Unprocessable, problems_of
from app.ids import new_id
from app.preconditions import entity_tag, require_match
from app.queue import enqueue
from app.requests import digests
from app.requests.conflicts import standing_allowed
from app.requests.digests import Digests
from app.requests.entries import over_by
from app.requests.errors import TextTooLong
from app.requests.sealed import subject_indexes
from app.served_models import breaker, repository
from app.served_models.schemas import (
    ActiveAdapter,
    BreakerView,
    ModelCreate,
    ModelPatch,
    ModelView,
    Policy,
    RetainItem,
    RetainSetResult,
    RetainSetView,
)
from app.tables import Adapter, AdapterState, Example, ServedModel
from app.tables.content import Content
from app.tables.key import KeyRole
from app.tokens import TokeniserMissing, count_tokens, load_tokeniser
from grail.types import Role, Segment

CHUNK = 500
"""Items written at once."""
MAX_QUESTIONS_BYTES = 64 << 20
MAX_CONTEXT_TOKENS = 2**31 - 1
RUN_JOB = "grail.run_job"


class NameTaken(Conflict):
    """There is a model of that name."""

    type = "name-taken"
    title = "There is a served model of this name"
    mend = "Choose another name, or PATCH the one that is there."


class PathRefused(Unprocessable):
    """A path that may not, or can not, be registered."""

    type = "path-refused"
    title = "The path can not be registered"
    mend = "Name a directory below one of the roots of GRAIL_MODEL_ROOTS."


class PolicyRefused(Unprocessable):
    """A policy that makes no sense."""

    type = "policy-refused"
    title = "The policy makes no sense"
    mend = (
        "Correct the fields that `errors` names. A setting given as an empty word (a number as 0) takes what the "
        "method or the objective presets; GET /v1/methods lists these."
    )


def contained(path: str, settings: Settings) -> Path:
    """The directory at `path`, links resolved, below one of the allowed roots. Raises PathRefused."""
    found = _inside(Path(path), settings)
    if not os.path.isdir(found):  # unlike Path.is_dir it takes any name: too long, or not to be looked at
        raise PathRefused(f"there is no directory {found.name[:64]} at that path")
    try:
        entries = list(found.iterdir())
    except OSError:
        raise PathRefused(f"the directory {found.name} can not be read by the service") from None
    for entry in entries:
        if entry.is_symlink():
            _inside(entry, settings)
        if entry.exists() and not (entry.is_file() or entry.is_dir()):
            raise PathRefused(f"{entry.name[:64]} in {found.name[:64]} is neither a file nor a directory")
    return found


def _inside(path: Path, settings: Settings) -> Path:
    """`path` with its links resolved. Raises PathRefused unless that lies below one of the allowed roots."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links that lead to themselves
        raise PathRefused(f"{path.name[:64]} leads nowhere") from None
    if not any(found.is_relative_to(root.resolve()) for root in settings.allowed_roots):
        raise PathRefused("the path lies outside of the directories that models may come from")
    return found


def questions_in(policy: Policy, settings: Settings) -> Policy:
    """The policy with the place of its file of questions, links resolved. Raises PathRefused unless that is a file
    below one of the allowed roots."""
    if policy.ability_file is None:
        return policy
    found = _inside(Path(policy.ability_file), settings)
    if not os.path.isfile(found) or os.path.getsize(found) > MAX_QUESTIONS_BYTES:
        most = f"{MAX_QUESTIONS_BYTES >> 20} MiB"
        mend = f"Name a file of JSON lines, of at most {most}, below a root of GRAIL_MODEL_ROOTS."
        raise PathRefused(f"there is no such file {found.name[:64]} at that path", mend=mend)
    return policy.model_copy(update={"ability_file": str(found)})


def not_ended(session: Session, path: Path, settings: Settings) -> Path:
    """The path, unless it is that of a stored version which holds what was erased or has not passed its gate. Raises
    PathRefused."""
    if path.is_relative_to(settings.adapters_dir.resolve()):
        ended = ended_named(session, path.name)
        if ended is not None:
            raise PathRefused(
                f"{ended.name} is a {ended.state} version: under another name it would be served again",
                mend="Name a published version's directory, or an adapter of your own.",
            )
    return path


def context_tokens(base: Path) -> int:
    """How many tokens the base model takes; its tokenizer is there too. Raises PathRefused."""
    try:
        found = read_config(base / "config.json")["max_position_embeddings"]
    except (OSError, ValueError, KeyError):
        found = None
    if type(found) is not int or not 1 <= found <= MAX_CONTEXT_TOKENS:
        raise PathRefused(
            f"{base.name} has no readable config.json with max_position_embeddings",
            mend="Name a model directory as transformers saves it.",
        )
    try:
        load_tokeniser(str(base))
    except TokeniserMissing:
        mend = "Save the tokenizer beside the weights."
        raise PathRefused(f"{base.name} has no readable tokenizer.json", mend=mend) from None
    return found


def create(session: Session, ask: ModelCreate, who: Principal, settings: Settings, now: datetime) -> ServedModel:
    """Register a model with its adapter as version 1. Raises NameTaken, PathRefused, NotAnAdapter, ShapeMismatch,
    ReferenceDiffers, BrokenFile, StorageFull, VersionDamaged."""
    repository.hold_name(session, ask.name)
    if repository.by_name(session, ask.name) is not None:
        raise NameTaken(f"the name {ask.name} is taken")
    base = contained(ask.base_model_path, settings)
    adapter = not_ended(session, contained(ask.adapter_path, settings), settings)
    tokens = context_tokens(base)
    check_adapter(adapter, base)
    reference = contained(ask.reference_adapter_path, settings) if ask.reference_adapter_path else None
    if reference is not None:
        not_ended(session, reference, settings)
        check_adapter(reference, base)
        check_reference(adapter, reference)
    digest = base_digest(base, settings.data_dir / "digests")
    written = write_version(
        adapter, settings.adapters_dir, model_name=ask.name, version=1, base_model_digest=digest, parent=None,
        check=lambda copy: check_adapter(copy, base),
    )  # fmt: skip
    model = ServedModel(
        name=ask.name, base_model_path=str(base), base_model_digest=digest, prompt_template=ask.prompt_template,
        reference_adapter_path=str(reference) if reference else None, context_tokens=tokens,
        policy=questions_in(ask.policy, settings).model_dump(mode="json"), alias_revision=0, content_keyed_at=now,
    )  # fmt: skip
    session.add(model)
    session.flush()
    first = Adapter(
        served_model_id=model.id, version=1, name=written.name, digest=written.digest, directory=str(written.directory),
        manifest=written.manifest, state=AdapterState.PUBLISHED, published_at=now,
    )  # fmt: skip
    session.add(first)
    session.flush()
    model.active_adapter_id = first.id
    session.flush()
    session.refresh(model)
    record(session, "model.registered", subject_id=str(model.id), key_id=str(who.key_id), digest=digest, name=ask.name)
    record(session, "adapter.published", subject_id=str(first.id), digest=first.digest, alias_revision=0)
    return model


def view(model: ServedModel, active: Adapter | None, who: Principal, now: datetime) -> ModelView:
    """How a model is shown: where its files lie, and what is wrong with them, is no requester's business."""
    sees_paths = who.role is not KeyRole.REQUESTER
    shown = ActiveAdapter(version=active.version, name=active.name, digest=active.digest) if active else None
    return ModelView(
        name=model.name, base_model_path=model.base_model_path if sees_paths else None,
        base_model_digest=model.base_model_digest,
        reference_adapter_path=model.reference_adapter_path if sees_paths else None,
        prompt_template=model.prompt_template, context_tokens=model.context_tokens,
        policy=_shown(Policy.model_validate(model.policy), sees_paths=sees_paths), active_adapter=shown,
        alias_revision=model.alias_revision, created_at=model.created_at, updated_at=model.updated_at,
        breaker=BreakerView(
            state=breaker.state(model, now), failures=model.breaker_failures, opened_at=model.breaker_opened_at,
            tries_again_at=breaker.tries_again_at(model), reason=model.breaker_error if sees_paths else None,
        ),
        etag=entity_tag(model.xmin),
    )  # fmt: skip


def _shown(policy: Policy, *, sees_paths: bool) -> Policy:
    return policy if sees_paths else policy.model_copy(update={"ability_file": None})


def named(session: Session, name: str, *, lock: bool = False) -> ServedModel:
    """Raises NotFound."""
    model = repository.by_name(session, name, lock=lock)
    if model is None:
        raise NotFound("there is no served model of this name", mend="GET /v1/models lists them.")
    return model


def show(session: Session, model: ServedModel, who: Principal, now: datetime) -> ModelView:
    """One model as it is shown."""
    active = session.get(Adapter, model.active_adapter_id) if model.active_adapter_id else None
    return view(model, active, who, now)


def everything(session: Session, who: Principal, now: datetime) -> list[ModelView]:
    """All models, by name."""
    return [view(model, active, who, now) for model, active in repository.everything(session)]


def left_alone(session: Session, now: datetime) -> list[tuple[str, dict[str, Any]]]:
    """Name and reason of each model whose breaker is open."""
    models = [model for model, _ in repository.everything(session)]
    return [(model.name, model.breaker_error or {}) for model in models if breaker.blocks(model, now)]


def without_files(session: Session) -> tuple[list[str], int]:
    """(names of models whose base model's files, or active version's, are not where they were; how many models)."""
    found = repository.everything(session)
    gone = [
        model.name
        for model, active in found
        if not (Path(model.base_model_path) / "config.json").is_file()
        or (active is not None and not (Path(active.directory) / MANIFEST).is_file())
    ]
    return gone, len(found)


def close_breaker(session: Session, name: str, who: Principal, now: datetime) -> ServedModel:
    """Let jobs of the model start again; nothing when they may. Its queued job is rung for. Raises NotFound."""
    model = named(session, name, lock=True)
    breaker.reset(session, model, now, who)
    for job_id in repository.queued_jobs(session, model.id):
        enqueue(session, RUN_JOB, job_id)
    return model


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the fields of `new`, nested ones one by one."""
    both = dict(old)
    for key, value in new.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def expect(session: Session, name: str, if_match: str) -> None:
    """Hold the model if it is still as the header names it. Raises NotFound, PreconditionFailed."""
    require_match(if_match, entity_tag(named(session, name, lock=True).xmin))


def patch(
    session: Session, name: str, ask: ModelPatch, who: Principal, settings: Settings, now: datetime
) -> ServedModel:
    """Change policy or template. Jobs that are queued keep the settings they were made with. Raises NotFound,
    PolicyRefused, PathRefused."""
    model = named(session, name, lock=True)
    if ask.policy is not None:
        present = Policy.model_validate(model.policy)
        full = present.model_dump(mode="json")
        if isinstance(asked := ask.policy.get("unlearn"), dict):
            full["unlearn"] = present.unlearn.changed(asked)
        try:
            wanted = Policy.model_validate(merged(full, ask.policy))
        except ValidationError as error:
            problems = problems_of(error.errors())
            raise PolicyRefused(f"{problems[0]['field']}: {problems[0]['problem']}", errors=problems) from None
        if wanted.ability_file != present.ability_file:
            wanted = questions_in(wanted, settings)
        model.policy = wanted.model_dump(mode="json")
    if ask.prompt_template is not None:
        model.prompt_template = ask.prompt_template
    model.updated_at = now
    session.flush()
    record(session, "model.changed", subject_id=str(model.id), key_id=str(who.key_id))
    return model


def _contents(item: RetainItem) -> tuple[str, str]:
    return (item.prompt, item.completion) if item.prompt is not None and item.completion else ("", item.passage or "")


def put_retain_set(
    session: Session, name: str, items: Sequence[RetainItem], who: Principal, now: datetime
) -> RetainSetResult:
    """Make the operator's standing set these items. Erasure wins: what is being or was forgotten stays out. Raises
    NotFound, TextTooLong, TokeniserMissing."""
    _check_lengths(named(session, name), items)
    model = named(session, name, lock=True)
    of = digests.of_contents(codec_of(session).keyring, model, [pair for item in items for _, pair in _texts(item)])
    wanted = {of[_contents(item)]: item for item in items}
    refused = standing_allowed(session, model.id, wanted)
    present = repository.standing_of_operator(session, model.id)
    gone = [row_id for digest, row_id in present.items() if digest not in wanted]
    fresh = [(d, item) for d, item in wanted.items() if d not in present and d not in refused]
    repository.retire(session, gone, now)
    repository.forget_taken_out(session, model.id, wanted)
    queue, key_id = iter(fresh), codec_of(session).keyring.fresh().id
    while chunk := list(islice(queue, CHUNK)):
        rows = [row for place, (_, item) in enumerate(chunk) for row in _rows(model, of, item, place)]
        index = subject_indexes(codec_of(session), model.id, (item.subject for _, item in chunk))
        for row in rows:
            row.key_id, row.subject_index = key_id, index[row.content.subject]
        session.add_all([row for row in rows if row.parent_id is None])
        session.flush()
        session.add_all([row for row in rows if row.parent_id is not None])
        session.flush()
    result = RetainSetResult(
        added=len(fresh), kept=len(present) - len(gone), removed=len(gone), refused_erased=len(refused)
    )
    record(session, "retain_set.put", subject_id=str(model.id), key_id=str(who.key_id), **result.model_dump())
    return result


def _check_lengths(model: ServedModel, items: Sequence[RetainItem]) -> None:
    """Every text fits the model's context: one that does not would fail each job that draws it."""
    texts = [(f"items.{place}{where}", pair) for place, item in enumerate(items) for where, pair in _texts(item)]
    counts = count_tokens(load_tokeniser(model.base_model_path), model.prompt_template, [pair for _, pair in texts])
    faults = [
        {"field": where, "problem": over_by(count, model.context_tokens)}
        for (where, _), count in zip(texts, counts, strict=True)
        if count > model.context_tokens
    ]
    if faults:
        raise TextTooLong(faults, context_tokens=model.context_tokens)


def _texts(item: RetainItem) -> Iterator[tuple[str, tuple[str, str]]]:
    """An item's text and those of its probes, each with its place."""
    yield "", _contents(item)
    for place, probe in enumerate(item.probes):
        yield f".probes.{place}", (probe.prompt, probe.completion)


def _rows(model: ServedModel, of: Digests, item: RetainItem, position: int) -> Iterator[Example]:
    """The row of an item and those of its probes, with their digests `of` contents."""
    prompt, completion = _contents(item)
    common = {"served_model_id": model.id, "domain": item.domain, "segment": Segment.RETAIN}
    row_id = new_id()
    yield Example(
        **common, id=row_id, role=Role.ITEM, position=position, standing=True,
        content_digest=of[prompt, completion],
        content=Content(item.subject, prompt, completion, tuple(item.facts)),
    )  # fmt: skip
    for place, probe in enumerate(item.probes):
        yield Example(
            **common, id=new_id(), parent_id=row_id, role=Role.PARAPHRASE, position=place,
            content=Content(item.subject, probe.prompt, probe.completion, tuple(probe.facts)),
            content_digest=of[probe.prompt, probe.completion],
        )  # fmt: skip


def retain_set(session: Session, name: str) -> RetainSetView:
    """Counts of what stands. Raises NotFound."""
    counts = repository.standing_counts(session, named(session, name).id)
    return RetainSetView(items={d: n for d, n, _ in counts}, subjects={d: n for d, _, n in counts})
