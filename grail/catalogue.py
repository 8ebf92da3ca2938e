"""Which methods and objectives there are, and what each declares about itself, without importing any of them.

A method is a file in grail/methods, an objective a file in grail/objectives/forget or /retain; its name is the file's.
At the top it may declare, as plain literals: FIXES (settings that make the method what it is), PRESETS (values for what
a policy leaves open), OPTIONS (settings of its own, with their defaults) and LIMITS (what these may be). They are read
from the syntax tree, so that the service can check a policy without loading torch. Standard library only.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
METHOD, FORGET, RETAIN = "methods", "objectives/forget", "objectives/retain"
NOT_NAMES = {"__init__", "base"}
LITERALS = {"FIXES": "fixes", "PRESETS": "presets", "OPTIONS": "options", "LIMITS": "limits"}


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file declares. `fixes` and `presets` map settings of UnlearnConfig to values, `options` its own settings
    to their defaults; `limits` says what an option may be: (lowest, highest), or all words that it knows. `says` is
    the first paragraph of its docstring on one line."""

    fixes: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, float | str] = field(default_factory=dict)
    limits: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    says: str = ""


@lru_cache
def names(kind: str) -> tuple[str, ...]:
    """The names of a kind (METHOD, FORGET, RETAIN), sorted."""
    return tuple(sorted({path.stem for path in (HERE / kind).glob("*.py")} - NOT_NAMES))


@lru_cache
def declaration(kind: str, name: str) -> Declaration:
    """What the file of that name declares. Raises OSError for a name that is none, ValueError for a declaration that is
    no literal."""
    tree = ast.parse((HERE / kind / f"{name}.py").read_text(encoding="utf-8"))
    found = {
        LITERALS[target.id]: ast.literal_eval(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id in LITERALS
    }
    said = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return Declaration(**found, says=" ".join(said.split()))
