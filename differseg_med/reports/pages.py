"""Pages in one look: what a page shows is data here, how it looks is in ``templates``.

A page is one file: no script, style sheet, font or picture from elsewhere. Everything is escaped by jinja2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from differseg_med.atomic import replacing
from differseg_med.metrics.policy import KNOWN
from differseg_med.metrics.statistics import MeasureSummary
from differseg_med.reports import colors

NUMERIC = re.compile(r"[-+]?\d|$")
"""How a cell of a column of numbers begins."""

MIN_GROUP = 5
"""Subjects from which on an interval or a box says something; below, every single value is shown."""

SEARCHED = 8
"""Rows from which on a table has a field to search in."""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, and searched if it is long.

    Args:
        caption: what it shows, for readers and screen readers.
        header: names of the columns.
        rows: cells; floats get the digits of `number`.
        wide: columns of long texts, which may wrap.
        kinds: per row ``failed``, ``notice`` or nothing: how it stands out.
        links: address by the text of the first column.
        choices: column whose values one can choose from.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    wide: Sequence[int] = ()
    kinds: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    choices: int | None = None

    @property
    def cells(self) -> list[list[str]]:
        """The cells as texts."""
        return [[number(cell) for cell in row] for row in self.rows]

    @property
    def classes(self) -> list[str]:
        """Per column: words to the left, numbers (also with an interval or a unit behind them) to the right."""
        numeric = [all(map(NUMERIC.match, column)) for column in zip(*self.cells)] or [True] * len(self.header)
        return ["text" if i in self.wide else "" if numbers else "word" for i, numbers in enumerate(numeric)]

    @property
    def options(self) -> list[str]:
        """What one can choose from: the values of the column ``choices``, if they are few but not one."""
        values = [] if self.choices is None else sorted({row[self.choices] for row in self.cells} - {""})
        return values if 1 < len(values) <= 12 else []

    @property
    def searchable(self) -> bool:
        """Whether it is long enough to be searched."""
        return len(self.rows) >= SEARCHED


@dataclass(frozen=True)
class Figure:
    """A picture inside the page.

    Args:
        data: content of an image file.
        caption: below it, and what screen readers say.
        kind: ``png`` or ``webp``.
    """

    data: bytes
    caption: str
    kind: str = "png"

    @property
    def source(self) -> str:
        """The address, which is the content."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Notice:
    """A sentence that stands out; ``kind`` is ``notice`` or ``failed``."""

    text: str
    kind: str = "notice"


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it.

    Args:
        title: the heading.
        parts: texts, `Table`, `Figure` and `Notice`.
        kind: ``gallery`` puts figures side by side.
    """

    title: str
    parts: Sequence[object]
    kind: str = ""


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates."""
    made = Environment(
        loader=PackageLoader("differseg_med.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    made.tests["table"] = lambda part: isinstance(part, Table)
    made.tests["figure"] = lambda part: isinstance(part, Figure)
    made.tests["notice"] = lambda part: isinstance(part, Notice)
    made.globals |= {"MASK": colors.MASK_COLOR, "REFERENCE": colors.REFERENCE_COLOR}
    return made


def write_page(
    path: str | Path, title: str, sections: Iterable[Section], *, template: str = "page.html.j2", **context: Any
) -> Path:
    """Write a page in one step, piece by piece, so that a long one is never in memory as a whole.

    Args:
        path: the file.
        title: of the page.
        sections: what it shows, after what the template shows of ``context``.
        template: name of a template that extends ``base.html.j2``.
        context: ``lead`` (a sentence), ``notices``, ``tiles`` (name to value), ``provenance`` (name to value), and what
            the template asks for.
    """
    known = {"lead": "", "notices": (), "tiles": {}, "provenance": {}}
    filled = environment().get_template(template).stream(title=title, sections=list(sections), **(known | context))
    filled.enable_buffering(64)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(filled)
    return Path(path)


def number(value: object) -> str:
    """Three decimals below 10, two below 100, else one; everything else as it is."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def interval(value: float, low: float | None, high: float | None, subjects: int) -> str:
    """A figure with its interval, if there are subjects enough for one."""
    if low is None or high is None or subjects < MIN_GROUP:
        return f"{number(value)} (no interval: {subjects} subject{'s' * (subjects != 1)})"
    return f"{number(value)} ({number(low)} to {number(high)})"


SUMMARY_HEADER = ("n", "subjects", "mean (95 % interval)", "median (95 % interval)", "quartiles", "lowest", "highest")


def summary_cells(summary: MeasureSummary) -> list[object]:
    """A summary as cells under `SUMMARY_HEADER`; quartiles of a handful of cases would be two of them."""
    few = summary.n < MIN_GROUP
    return [
        summary.n,
        summary.subjects,
        interval(summary.mean, summary.mean_low, summary.mean_high, summary.subjects),
        interval(summary.median, summary.median_low, summary.median_high, summary.subjects),
        "" if few else f"{number(summary.q1)} to {number(summary.q3)}",
        summary.minimum,
        summary.maximum,
    ]


def definitions(settings: Mapping[str, object], measures: Iterable[str]) -> Section:
    """The settings, and what each measure means."""
    arrows = {"higher": "higher is better", "lower": "lower is better", "zero": "nearer to 0 is better"}
    wanted = set(measures)
    rows = [(m.label, name, arrows[m.better], m.text) for name, m in KNOWN.items() if name in wanted]
    header = ("measure", "column", "direction", "definition (P predicted, R reference)")
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in settings.items()]
    return Section("Settings and definitions", [*lines, Table("What each measure means", header, rows, (3,))])
