"""What a report is made of before anybody says how it looks: HTML and PDF draw the same blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "bad", "wait"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One value; `under` stands smaller beneath it (an interval, an id).

    `is_code` for ids and digests; `is_free` for a person's own words, which may be broken anywhere to fit.
    """

    text: str
    under: str = ""
    tone: Tone = ""
    is_code: bool = False
    is_free: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """`share` is its part of the width on paper; its `title` is repeated beside each value on a phone."""

    title: str
    share: float = 1.0
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Cells in the columns' order; a band has one cell over all columns and heads the rows that follow."""

    cells: tuple[Cell, ...]
    is_band: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """`stacks`: on a phone each row becomes a card; `is_long`: folded away on screens, on pages of its own on paper."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    stacks: bool = False
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG text of `app.reports.charts`, and the same in words (`alt`) for those who can not see it."""

    title: str
    svg: str = field(repr=False)
    alt: str


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts side by side where there is room."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """Sentences, under a small heading when there is a title."""

    sentences: tuple[str, ...]
    title: str = ""
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Cards:
    """Short findings beside each other."""

    cards: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that nobody may overlook."""

    tone: Tone
    text: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names with their values."""

    entries: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A heading inside a section."""

    title: str


Block = Table | Charts | Said | Cards | Notice | Pairs | Part


@dataclass(frozen=True, slots=True)
class Section:
    """`key` is its address inside the page; an annex stands after the place for signatures."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    is_annex: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A whole document: the verdict on top, then the sections in their order. `signed` is what a signature stands for,
    `statement` what signing says, `note` what of it was added at reading."""

    title: str
    subtitle: str
    tone: Tone
    badge: str
    verdict: str
    facts: Pairs
    sections: tuple[Section, ...]
    signed: str
    statement: str
    note: str
