"""A report as one HTML file: no script, nothing fetched, charts inline. Every text is escaped where it is put in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from app.reports.blocks import Block, Cards, Cell, Charts, Column, Notice, Page, Pairs, Part, Row, Said, Section, Table
from app.reports.contents import page
from app.reports.schemas import Issued
from app.reports.words import visible

HERE = Path(__file__).parent


@lru_cache(maxsize=1)
def style() -> str:
    """The style sheet: the page's and the charts'."""
    return "".join((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "charts.css"))


@lru_cache(maxsize=1)
def content_policy() -> str:
    """Nothing runs and nothing is fetched; the one style sheet is allowed by its hash, so none can be smuggled in."""
    known = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{known}'; base-uri 'none'; form-action 'none'"


@lru_cache(maxsize=1)
def _template() -> Template:
    return Template((HERE / "report.html").read_text(encoding="utf-8"))


def render(issued: Issued) -> bytes:
    """The file, in UTF-8."""
    return file_of(page(issued))


def file_of(shown: Page) -> bytes:
    """A page as a file, in UTF-8."""
    text = _template().substitute(
        policy=escape(content_policy()), style=style(), title=_t(f"{shown.title}: {shown.subtitle}"),
        heading=_t(shown.title), subtitle=_t(shown.subtitle), tone=shown.tone, badge=_t(shown.badge),
        verdict=_t(shown.verdict), facts=_pairs(shown.facts), contents=_contents(shown),
        sections="\n".join(_section(section) for section in shown.sections), signed=_t(shown.signed),
        note=_t(shown.note),
    )  # fmt: skip
    return text.encode()


def _t(text: str) -> str:
    return escape(visible(text))


def _contents(shown: Page) -> str:
    return "".join(f'<li><a href="#{section.key}">{_t(section.title)}</a></li>' for section in shown.sections)


def _section(section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return f'<section id="{section.key}">\n<h2>{_t(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    return DRAWN_BY[type(block)](block)


def _said(said: Said) -> str:
    title = f"<h3>{_t(said.title)}</h3>" if said.title else ""
    if said.is_list:
        return f"{title}<ul>{''.join(f'<li>{_t(sentence)}</li>' for sentence in said.sentences)}</ul>"
    return title + "".join(f"<p>{_t(sentence)}</p>" for sentence in said.sentences)


def _cards(cards: Cards) -> str:
    return f'<div class="cards">{"".join(f"<div>{_said(card)}</div>" for card in cards.cards)}</div>'


def _notice(notice: Notice) -> str:
    return f'<p class="notice {notice.tone}">{_t(notice.text)}</p>'


def _part(part: Part) -> str:
    return f"<h3>{_t(part.title)}</h3>"


def _pairs(pairs: Pairs) -> str:
    entries = "".join(f"<div><dt>{_t(name)}</dt><dd>{_cell(cell)}</dd></div>" for name, cell in pairs.entries)
    return f"<dl>{entries}</dl>"


def _charts(charts: Charts) -> str:
    drawn = (f"<figure><figcaption>{_t(chart.title)}</figcaption>{chart.svg}</figure>" for chart in charts.charts)
    return f'<div class="charts">{"".join(drawn)}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_kind(column)}>{_t(column.title)}</th>' for column in table.columns)
    body = "".join(_bodies(table))
    kind = ' class="stacks"' if table.stacks else ""
    caption = f'<caption class="{"unseen" if table.is_long else "seen"}">{_t(table.caption)}</caption>'
    columns = f"<colgroup>{''.join(_widths(table.columns))}</colgroup>"
    drawn = f"<table{kind}>{caption}{columns}<thead><tr>{head}</tr></thead>{body}</table>"
    return f"<details><summary>{_t(table.caption)}</summary>{drawn}</details>" if table.is_long else drawn


def _widths(columns: tuple[Column, ...]) -> Iterable[str]:
    """Widths as attributes: the content policy lets no style in but the sheet."""
    whole = sum(column.share for column in columns)
    return (f'<col width="{100 * column.share / whole:.1f}%">' for column in columns)


def _bodies(table: Table) -> Iterable[str]:
    """One tbody for each band, so that a page break can be kept away from its head."""
    started = False
    for row in table.rows:
        if row.is_band or not started:
            yield "</tbody><tbody>" if started else "<tbody>"
            started = True
        yield _row(row, table.columns)
    if started:
        yield "</tbody>"


def _row(row: Row, columns: tuple[Column, ...]) -> str:
    if row.is_band:
        return f'<tr class="band"><th scope="rowgroup" colspan="{len(columns)}">{_cell(row.cells[0])}</th></tr>'
    first = f'<th scope="row">{_cell(row.cells[0])}</th>'
    rest = (
        f'<td data-title="{_t(column.title)}"{_kind(column)}>{_cell(cell)}</td>'
        for column, cell in zip(columns[1:], row.cells[1:], strict=True)
    )
    return f"<tr>{first}{''.join(rest)}</tr>"


def _kind(column: Column) -> str:
    return ' class="number"' if column.is_number else ""


def _cell(cell: Cell) -> str:
    text = f"<code>{_t(cell.text)}</code>" if cell.is_code else f"<bdi>{_t(cell.text)}</bdi>"
    shown = f'<span class="tone {cell.tone}">{text}</span>' if cell.tone else text
    return shown + (f'<small>{_t(cell.under)}</small>' if cell.under else "")


DRAWN_BY: dict[type[Block], Callable[[Any], str]] = {
    Said: _said, Cards: _cards, Notice: _notice, Part: _part, Pairs: _pairs, Charts: _charts, Table: _table,
}  # fmt: skip
