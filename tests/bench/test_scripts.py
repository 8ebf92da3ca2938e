"""Benches run for hours and seldom: what they import must be there, and --help must answer."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
SCRIPTS = sorted(path for path in BENCH.rglob("*.py") if path.name != "__init__.py")
OURS = {"app", "cli", "grail", "plain", "provenance", "reproduction", "worker"}
COMMANDS = [path for path in SCRIPTS if "__main__" in path.read_text(encoding="utf-8")]


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


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_a_bench_says_what_it_does(path: Path) -> None:
    said = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "usage:" in said.stdout
