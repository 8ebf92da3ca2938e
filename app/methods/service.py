"""The library's catalogue as values. It is read off the files: nothing of the learning stack is loaded."""

from __future__ import annotations

from app.methods.schemas import Declared, MethodList
from grail.catalogue import FORGET, METHOD, RETAIN, declaration, names


def everything() -> MethodList:
    """All methods and objectives, by name."""
    return MethodList(methods=_declared(METHOD), objectives=_declared(FORGET), retain_objectives=_declared(RETAIN))


def _declared(kind: str) -> list[Declared]:
    found = {name: declaration(kind, name) for name in names(kind)}
    return [
        Declared(
            name=name,
            says=d.says,
            fixes=dict(d.fixes),
            presets=dict(d.presets),
            options=dict(d.options),
            limits={option: list(values) for option, values in d.limits.items()},
        )
        for name, d in found.items()
    ]
