"""The house's rules that no linter knows, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "worker", "grail", "cli", "migrations", "bench")
SQL_VERBS = {"select", "insert", "update", "delete"}
BROAD = {"Exception", "BaseException"}

# Where anything at all may go wrong and must still end in a clear state. Each says so at its line.
NAMED_BORDERS = {
    "app/embedded/supervisor.py", "app/errors.py", "app/jobs/failing.py", "cli/main.py", "worker/job.py",
    "worker/task.py",
}  # fmt: skip


def sources(*packages: str) -> Iterator[tuple[str, ast.Module, str]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield str(path.relative_to(ROOT)), ast.parse(text), text


def called_names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """(line, name, is_method) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.lineno, node.func.attr, True
            elif isinstance(node.func, ast.Name):
                yield node.lineno, node.func.id, False


def test_commit_stands_only_in_the_database_module() -> None:
    found = [
        f"{name}:{line}"
        for name, tree, _ in sources("app", "worker", "cli")
        for line, call, is_method in called_names(tree)
        if call == "commit" and is_method and name != "app/db.py"
    ]
    assert found == []


def test_sql_is_written_only_in_repositories() -> None:
    found = [
        f"{name}:{line} {call}"
        for name, tree, _ in sources("app", "worker", "cli")
        for line, call, is_method in called_names(tree)
        if call in SQL_VERBS and not is_method and not name.endswith("repository.py")
    ]
    assert found == []


def test_functions_and_modules_stay_small() -> None:
    long_functions, long_modules = [], []
    for name, tree, text in sources("app", "worker", "grail", "cli", "bench"):
        if text.count("\n") >= 500:
            long_modules.append(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > 70:
                    long_functions.append(f"{name}:{node.lineno} {node.name} has {length} lines")
    assert long_functions == []
    assert long_modules == []


def test_broad_excepts_stand_only_at_the_named_borders() -> None:
    found = []
    for name, tree, _ in sources(*PACKAGES):
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = node.type
                broad = caught is None or (isinstance(caught, ast.Name) and caught.id in BROAD)
                if broad and name not in NAMED_BORDERS:
                    found.append(f"{name}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("forbidden", ["pickle", "marshal", "shelve", "dill", "joblib"])
def test_nothing_unpickles(forbidden: str) -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree, _ in sources(*PACKAGES)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == forbidden for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == forbidden)
    ]
    assert found == []


def test_tensors_are_never_loaded_by_torch_load() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree, _ in sources(*PACKAGES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "load"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    ]
    assert found == []


def test_no_drawer_for_everything() -> None:
    names = {"utils.py", "helpers.py", "misc.py", "common.py"}
    assert [name for name, _, _ in sources(*PACKAGES) if Path(name).name in names] == []


def test_public_functions_of_the_library_and_of_trust_are_documented() -> None:
    found = []
    for name, tree, _ in sources("grail", "app/trust"):
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                found.append(f"{name}:{node.lineno} {node.name}")
        if not ast.get_docstring(tree):
            found.append(f"{name} has no module docstring")
    assert found == []
