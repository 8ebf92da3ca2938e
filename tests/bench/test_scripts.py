"""Benches run for hours and seldom: what they import must be there, inside of functions, too."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
SCRIPTS = sorted(path for path in BENCH.rglob("*.py") if path.name != "__init__.py")
OWN = {path.relative_to(BENCH).with_suffix("").parts[0] for path in SCRIPTS}
OURS = {"app", "cli", "grail", "tests", "worker"} | OWN


def name_of(path: Path) -> str:
    return str(path.relative_to(BENCH))


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_everything_of_ours_that_a_bench_imports_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
