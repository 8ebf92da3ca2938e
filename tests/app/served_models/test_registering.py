"""Models come in by path: only from where they may, only whole, only with adapters that fit."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.served_models import service
from app.tables import Adapter, Audit, ServedModel
from tests.app.service import Floor, until_blocked
from tests.app.weights import adapter, base_model, lora

PATH = "/v1/models"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, shared: Floor) -> Path:
    """A directory below the allowed root."""
    made = shared.directory / tmp_path_factory.mktemp("place").name
    made.mkdir(exist_ok=True)
    return made


def refused(floor: Floor, **fields: Any) -> tuple[int, str]:
    return floor.caller.refused("operator", "POST", PATH, json=floor.registration(**{"name": "fresh", **fields}))


def names(floor: Floor) -> set[str]:
    return {model["name"] for model in floor.caller.call("operator", "GET", PATH)["items"]}


def test_a_model_is_registered_with_its_adapter_as_version_one(floor: Floor) -> None:
    answer = floor.caller.send("operator", "POST", PATH, json=floor.registration("books", policy={"window_seconds": 5}))
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{PATH}/books"
    made = answer.json()
    assert made == floor.caller.call("operator", "GET", f"{PATH}/books")
    assert (made["active_adapter"]["version"], made["alias_revision"], made["context_tokens"]) == (1, 0, 64)
    assert made["policy"]["window_seconds"] == 5
    assert made["policy"]["unlearn"]["method"] == "grail"
    assert [m["name"] for m in floor.caller.call("requester", "GET", PATH)["items"]] == ["books", "people"]
    with floor.db.session_factory() as session:
        row = session.scalars(select(Adapter).where(Adapter.name == made["active_adapter"]["name"])).one()
        assert Path(row.directory).parent == floor.settings.adapters_dir.absolute()
        events = session.scalars(select(Audit.event).order_by(Audit.id.desc()).limit(2)).all()
    assert set(events) == {"model.registered", "adapter.published"}
    kept = (Path(row.directory) / "adapter_model.safetensors").read_bytes()
    (floor.adapter / "adapter_model.safetensors").write_bytes(b"changed afterwards")
    assert (Path(row.directory) / "adapter_model.safetensors").read_bytes() == kept


def test_a_name_is_taken_once(shared: Floor) -> None:
    assert refused(shared, name="people") == (409, "name-taken")


def test_of_two_that_register_a_name_at_the_same_time_one_gets_it(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked = service.repository.by_name, []

    def look_together(session: Any, name: str, **more: Any) -> ServedModel | None:
        found = look(session, name, **more)
        if name == "twin" and found is None:
            looked.append(name)
            until_blocked(floor.db, lambda: len(looked) == 2)
        return found

    monkeypatch.setattr(service.repository, "by_name", look_together)
    statuses: list[int] = []

    def register() -> None:
        statuses.append(floor.caller.send("operator", "POST", PATH, json=floor.registration("twin")).status_code)

    threads = [threading.Thread(target=register) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 409]


@pytest.mark.parametrize("field", ["base_model_path", "adapter_path", "reference_adapter_path"])
@pytest.mark.parametrize(
    "path",
    ["/etc", "/", "{root}/../..", "{root}/nowhere", "{root}/base/config.json", "{root}/link", "{root}/loop", "relative",
     "{root}/" + "n" * 300, "{root}/" + "d/" * 400, "{root}/base/../../.."],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_or_nowhere_is_refused(shared: Floor, field: str, path: str) -> None:
    root = shared.directory
    if not (root / "link").is_symlink():
        (root / "link").symlink_to("/etc")
        (root / "loop").symlink_to(root / "loop")
    answer = shared.caller.send(
        "operator", "POST", PATH, json=shared.registration("fresh", **{field: path.format(root=root)})
    )
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:grail:problem:path-refused"), answer.text
    assert names(shared) == {"people"}


@pytest.mark.parametrize("path", ["", " ", "a\x00b", "p" * 1025, 7, None])
@pytest.mark.parametrize("field", ["base_model_path", "adapter_path"])
def test_a_path_that_is_none_is_refused(shared: Floor, field: str, path: Any) -> None:
    assert refused(shared, **{field: path}) == (422, "unprocessable")


@pytest.mark.parametrize(
    ("which", "file"),
    [("base", "model.safetensors"), ("adapter", "adapter_model.safetensors"), ("adapter", "adapter_config.json")],
)
def test_a_file_that_is_a_link_out_of_the_roots_is_refused(
    shared: Floor, place: Path, tmp_path: Path, which: str, file: str
) -> None:
    """Else whoever may register could read, through the download, what the service can read."""
    made = base_model(place / "base") if which == "base" else adapter(place / "adapter")
    shutil.move(made / file, tmp_path / file)
    (made / file).symlink_to(tmp_path / file)
    field = "base_model_path" if which == "base" else "adapter_path"
    assert refused(shared, **{field: str(made)}) == (422, "path-refused")


def test_links_inside_of_the_roots_are_followed(floor: Floor) -> None:
    (floor.directory / "alias").symlink_to(floor.base)
    shutil.move(floor.adapter / "adapter_model.safetensors", floor.directory / "blob")
    (floor.adapter / "adapter_model.safetensors").symlink_to(floor.directory / "blob")
    body = floor.registration("linked", base_model_path=str(floor.directory / "alias"))
    made = floor.caller.call("operator", "POST", PATH, 201, json=body)
    assert made["base_model_path"] == str(floor.base)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "3", "{}", "[" * 100_000, '{"max_position_embeddings": "many"}', '{"max_position_embeddings": 0}',
     '{"max_position_embeddings": -5}', '{"max_position_embeddings": 1e400}', '{"max_position_embeddings": 2147483648}',
     '{"max_position_embeddings": 64.5}', '{"max_position_embeddings": true}', '{"max_position_embeddings": null}',
     '{"max_position_embeddings": NaN}'],
)  # fmt: skip
def test_a_base_without_a_sensible_context_is_refused(shared: Floor, place: Path, content: str) -> None:
    base = base_model(place / "base")
    (base / "config.json").write_text(content)
    assert refused(shared, base_model_path=str(base)) == (422, "path-refused")


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"])
def test_a_base_whose_tokenizer_can_not_be_read_is_refused(shared: Floor, place: Path, content: str | None) -> None:
    """Every later request would be answered with 503."""
    base = base_model(place / "base")
    (base / "tokenizer.json").unlink()
    if content is not None:
        (base / "tokenizer.json").write_text(content)
    assert refused(shared, base_model_path=str(base)) == (422, "path-refused")


def test_each_fault_of_files_has_its_own_words(shared: Floor, place: Path) -> None:
    broken = adapter(place / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"not-json" + b"x")
    assert refused(shared, adapter_path=str(broken)) == (422, "broken-weights")
    assert refused(shared, adapter_path=str(adapter(place / "ia3", peft_type="IA3"))) == (422, "not-an-adapter")
    pickled = adapter(place / "pickled")
    (pickled / "adapter_model.bin").write_bytes(b"x")
    assert refused(shared, adapter_path=str(pickled)) == (422, "not-an-adapter")
    saved = adapter(place / "saved", modules_to_save=["lm_head"])
    assert refused(shared, adapter_path=str(saved)) == (422, "not-an-adapter")
    other = adapter(
        place / "other", {name: (d0, 9) if "lora_A" in name else (d0, d1) for name, (d0, d1) in lora().items()}
    )
    assert refused(shared, adapter_path=str(other)) == (422, "adapter-does-not-fit")
    cut = base_model(place / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-4])
    assert refused(shared, base_model_path=str(cut)) == (422, "broken-weights")
    bare = base_model(place / "bare")
    (bare / "model.safetensors").unlink()
    assert refused(shared, base_model_path=str(bare)) == (422, "unprocessable")
    assert names(shared) == {"people"}


def test_a_reference_adapter_must_be_of_the_served_ones_kind(shared: Floor, place: Path) -> None:
    """A worker puts its tensors in the served adapter's place."""
    larger = adapter(place / "larger", lora(4), r=4)
    assert refused(shared, reference_adapter_path=str(larger)) == (422, "reference-differs")
    louder = adapter(place / "louder", lora_alpha=32)
    assert refused(shared, reference_adapter_path=str(louder)) == (422, "reference-differs")
    broken = adapter(place / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"x")
    assert refused(shared, reference_adapter_path=str(broken)) == (422, "broken-weights")
    assert names(shared) == {"people"}


def test_a_reference_adapter_of_the_same_kind_is_kept(floor: Floor) -> None:
    reference = adapter(floor.directory / "reference", fill=b"\x3e")
    body = floor.registration("referred", reference_adapter_path=str(reference))
    made = floor.caller.call("operator", "POST", PATH, 201, json=body)
    assert made["reference_adapter_path"] == str(reference)
    assert floor.caller.call("requester", "GET", f"{PATH}/referred")["reference_adapter_path"] is None


def test_a_full_disk_registers_nothing_and_leaves_nothing(shared: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no room")

    before = set(shared.settings.adapters_dir.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    assert refused(shared) == (507, "storage-full")
    assert set(shared.settings.adapters_dir.iterdir()) == before
    assert names(shared) == {"people"}


def test_a_registration_that_is_rolled_back_can_be_sent_again(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("after the files were written")

    monkeypatch.setattr(service, "record", broken)
    assert floor.caller.refused("operator", "POST", PATH, json=floor.registration("again")) == (500, "internal-error")
    monkeypatch.undo()
    assert floor.caller.call("operator", "POST", PATH, 201, json=floor.registration("again"))["name"] == "again"


@pytest.mark.parametrize("name", ["", "Upper", "-dash", "a b", "a\n", "n" * 64, "ü", "a/b", None, 3])
def test_a_name_that_is_no_slug_is_refused(shared: Floor, name: Any) -> None:
    assert refused(shared, name=name) == (422, "unprocessable")


@pytest.mark.parametrize(
    "template", ["", "no place", "{prompt} twice {prompt}", "x" * 4001 + "{prompt}", "a\x00{prompt}"]
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_template_must_hold_the_prompt_exactly_once(shared: Floor, method: str, template: str) -> None:
    if method == "POST":
        assert refused(shared, prompt_template=template) == (422, "unprocessable")
    else:
        found = shared.caller.refused("operator", "PATCH", f"{PATH}/people", json={"prompt_template": template})
        assert found == (422, "unprocessable")


def test_models_that_are_not_there(shared: Floor) -> None:
    for path in (f"{PATH}/nobody", f"{PATH}/nobody/retain-set", f"{PATH}/nobody/replicas"):
        assert shared.caller.refused("operator", "GET", path) == (404, "not-found")
    for path in (f"{PATH}/%00", f"{PATH}/UPPER", f"{PATH}/a%0ab"):
        assert shared.caller.refused("requester", "GET", path) == (422, "unprocessable")


def test_where_files_lie_is_no_requesters_business(shared: Floor) -> None:
    for role, seen in (("requester", None), ("operator", str(shared.base)), ("officer", str(shared.base))):
        model = shared.caller.call(role, "GET", f"{PATH}/people")
        assert model["base_model_path"] == seen
        assert shared.caller.call(role, "GET", PATH)["items"][0] == model
    assert str(shared.directory) not in shared.caller.send("requester", "GET", f"{PATH}/people/adapters/1").text


def test_the_documented_example_names_its_fields_as_the_service_does(shared: Floor) -> None:
    document = shared.caller.call("requester", "GET", "/openapi.json")
    example = document["components"]["schemas"]["ModelCreate"]["examples"][0]
    assert shared.caller.refused("operator", "POST", PATH, json=example) == (422, "path-refused")


def questions(directory: Path) -> Path:
    path = directory / "questions.jsonl"
    path.write_text('{"question": "Which one floats?", "choices": ["lead", "wood"], "answer": 1}\n')
    return path


def test_a_file_of_questions_is_named_in_the_policy_and_hidden_from_requesters(floor: Floor) -> None:
    path = questions(floor.directory)
    made = floor.register("asked", ability_file=str(path), ability_questions=50)
    assert (made["policy"]["ability_file"], made["policy"]["ability_questions"]) == (str(path), 50)
    (floor.directory / "alias.jsonl").symlink_to(path)
    place = f"{PATH}/asked"
    body = {"policy": {"ability_file": str(floor.directory / "alias.jsonl")}}
    assert floor.caller.call("operator", "PATCH", place, json=body)["policy"]["ability_file"] == str(path)
    assert floor.caller.call("requester", "GET", place)["policy"]["ability_file"] is None
    path.unlink()
    said = floor.caller.call("operator", "PATCH", place, json={"policy": {"window_seconds": 5}})
    assert said["policy"]["ability_file"] == str(path), "what does not change it is not held up by it"
    assert floor.caller.call("operator", "PATCH", place, json={"policy": {"ability_file": None}})


@pytest.mark.parametrize(
    "path", ["{root}", "{root}/gone.jsonl", "/etc/passwd", "{root}/../../etc/passwd", "{root}/out"]
)
def test_a_file_of_questions_outside_of_the_roots_or_that_is_none_is_refused(floor: Floor, path: str) -> None:
    (floor.directory / "out").symlink_to("/etc/passwd")
    body = {"policy": {"ability_file": path.format(root=floor.directory)}}
    assert floor.caller.refused("operator", "PATCH", f"{PATH}/people", json=body) == (422, "path-refused")
    made = floor.registration("fresh", policy=body["policy"])
    assert floor.caller.refused("operator", "POST", PATH, json=made) == (422, "path-refused")
