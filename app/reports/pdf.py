"""A report as PDF for A4, tagged for screen readers and for the archive, with a place for a signature.

The same report gives the same bytes: its time is the job's and its fonts are those inside the typesetter. What these
fonts lack is written as its code, [U+4E2D]; the HTML has it as it was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import typst

from app.reports.blocks import Block, Page
from app.reports.contents import page
from app.reports.schemas import Document, Issued
from app.reports.words import visible

HERE = Path(__file__).parent
STANDARDS: list[typst.PDFStandard] = ["a-2a", "ua-1"]
REMEMBERED = 10  # documents whose parts the typesetter keeps, measured
BREAK_HERE = "\u200b"
IN_THE_FONTS = re.compile(
    "[ -\u007e\u00a0-\u036f\u0370-\u04ff\u0531-\u058f\u1e00-\u1fff\u2000-\u200a\u2010-\u2027\u2030-\u2040\u2070-\u20c0"
    "\u2190-\u22ff\u2500-\u25ff\u2713\u2717]"
)
"""Scripts that the embedded fonts cover whole: Latin, Greek, Cyrillic, Armenian; punctuation and signs."""
WHITE_SPACE = re.compile(r"[ \t\r\n]+")
PLAIN = re.compile(r"[ -~]")
LONG_RUN, LONG_WORD = re.compile(r"\S{30,}"), re.compile(r"\S{11,}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def render(issued: Issued) -> bytes:
    """The file. Its time stamp is when the job finished, began or was made, whichever is known first."""
    return file_of(page(issued), f"Report {issued.digest[:16]}", _moment(issued.document))


def file_of(shown: Page, footer: str, moment: int) -> bytes:
    """A page as a file with a time stamp, in seconds since the epoch."""
    try:
        return _typeset(_as_data(shown, footer, IN_THE_FONTS), moment)
    except typst.TypstError:  # a sequence of signs that the fonts know one by one but not together
        return _typeset(_as_data(shown, footer, PLAIN), moment)
    finally:
        _clear_memory()


def _typeset(data: dict[str, Any], moment: int) -> bytes:
    return typst.compile(
        str(HERE / "report.typ"), root=str(HERE), font_paths=_fonts(), ignore_system_fonts=True, format="pdf",
        sys_inputs={"page": json.dumps(data)}, pdf_standards=STANDARDS, timestamp=moment,
    )  # fmt: skip


def _clear_memory() -> None:
    """Empty documents push out what the typesetter remembers of the last ones: some 25 MB each, and people's words."""
    for _ in range(REMEMBERED + 1):
        typst.compile(b"", font_paths=_fonts(), ignore_system_fonts=True, format="svg")


@lru_cache(maxsize=1)
def _fonts() -> typst.Fonts:
    return typst.Fonts(include_system_fonts=False)


def _moment(document: Document) -> int:
    job = document["job"]
    found = datetime.fromisoformat(job["finished_at"] or job["started_at"] or job["created_at"])
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _as_data(shown: Page, footer: str, known: re.Pattern[str]) -> dict[str, Any]:
    """The page as plain values; every text printable."""
    whole = asdict(shown)
    for section, drawn in zip(shown.sections, whole["sections"], strict=True):
        drawn["blocks"] = [_block(block) for block in section.blocks]
    whole["footer"] = footer
    readable = _each_text(whole, lambda text: _printable(text, known))
    return {**readable, "colours": palette()}


def _block(block: Block) -> dict[str, Any]:
    return {"kind": type(block).__name__.lower(), **asdict(block)}


def _each_text(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """The same value with every text changed, but for keys' names, and charts, which get the print palette."""
    if isinstance(value, dict):
        changed = {name: _each_text(part, change, name) for name, part in value.items()}
        return changed | {"text": _broken(changed["text"], LONG_WORD)} if changed.get("is_free") else changed
    if isinstance(value, list | tuple):
        return [_each_text(part, change, key) for part in value]
    if not isinstance(value, str) or key in {"kind", "tone", "key"}:
        return value
    return _styled(value) if key == "svg" else change(value)


def _printable(text: str, known: re.Pattern[str]) -> str:
    """`text` with the signs that can not be printed as codes, and with places where a long word may be broken."""
    plain = WHITE_SPACE.sub(" ", visible(text))
    coded = "".join(sign if known.fullmatch(sign) else f"[U+{ord(sign):04X}]" for sign in plain)
    if UUID.fullmatch(coded):
        return coded.replace("-", f"-{BREAK_HERE}")
    return coded if re.fullmatch("[0-9a-f]{64}", coded) else _broken(coded, LONG_RUN)


def _broken(text: str, run: re.Pattern[str]) -> str:
    """`text` with places inside its longest words where a line may end."""
    return run.sub(lambda found: BREAK_HERE.join(found.group().replace(BREAK_HERE, "")), text)


@lru_cache(maxsize=1)
def palette() -> dict[str, str]:
    """The light colours of the style sheet, by name."""
    root = (HERE / "report.css").read_text(encoding="utf-8").split("}", 1)[0]
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", root))


@lru_cache(maxsize=1)
def _chart_style() -> str:
    sheet = (HERE / "charts.css").read_text(encoding="utf-8").replace("system-ui, sans-serif", "'Libertinus Serif'")
    return re.sub(r"var\(--([a-z-]+)\)", lambda found: palette()[found.group(1)], sheet)


def _styled(svg: str) -> str:
    """A chart with its style sheet inside: on paper there is no page to bring one."""
    return svg.replace(">", f"><style>{_chart_style()}</style>", 1)
