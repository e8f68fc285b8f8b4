"""Pages in one file: no scripts, no style sheets, fonts or pictures from elsewhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from differseg_med.atomic import write_text
from differseg_med.metrics.policy import KNOWN
from differseg_med.metrics.statistics import MeasureSummary

NUMERIC = re.compile(r"[-+]?\d|$")
"""How a cell of a column of numbers begins."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2433; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccd2dd; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid #e4e8ef; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th, th:first-child { background: #f3f5f9; vertical-align: bottom; } .word, .text { text-align: left; }
td.text { white-space: normal; min-width: 14em; }
.notice { background: #fff6dd; border-left: 4px solid #e5b53a; padding: .4em 1em; margin: .5em 0; }
.failed { background: #fdebed; border-left: 4px solid #d1495b; padding: .4em 1em; margin: .5em 0; }
figure { margin: 1em 0; } img { max-width: 100%; } figcaption { color: #5b6478; font-size: 13px; }
"""


def write_page(path: str | Path, title: str, parts: Iterable[str]) -> Path:
    """Write a page of HTML ``parts`` in one step; the title is escaped, the parts are taken as they are."""
    path = Path(path)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    write_text(path, f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')
    return path


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; ``kind`` is ``notice``, ``failed`` or nothing."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], text_columns: Iterable[int] = ()) -> str:
    """A table; floats get the digits of `number`, long texts (columns in ``text_columns``) may wrap.

    Columns of numbers, also with an interval or a unit behind them, stand to the right, words to the left.
    """
    lines = [[number(cell) for cell in row] for row in rows]
    wide = set(text_columns)
    kinds = [
        ' class="text"' if i in wide else "" if all(map(NUMERIC.match, column)) else ' class="word"'
        for i, column in enumerate(zip(*lines))
    ] or [""] * len(header)

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(c)}</{tag}>" for kind, c in zip(kinds, cells)) + "</tr>"

    return "\n".join(["<table>", line("th", header), *(line("td", cells) for cells in lines), "</table>"])


def picture(png: bytes, caption: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def number(value: object) -> str:
    """Three decimals below 10, two below 100, else one; everything else as it is."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def interval(value: float, low: float | None, high: float | None) -> str:
    """A figure with its interval; one subject has none."""
    if low is None or high is None:
        return f"{number(value)} (no interval: one subject)"
    return f"{number(value)} ({number(low)} to {number(high)})"


SUMMARY_HEADER = ("n", "subjects", "mean (95 % interval)", "median (95 % interval)", "quartiles", "lowest", "highest")


def summary_cells(summary: MeasureSummary) -> list[object]:
    """A summary as cells under `SUMMARY_HEADER`."""
    return [
        summary.n,
        summary.subjects,
        interval(summary.mean, summary.mean_low, summary.mean_high),
        interval(summary.median, summary.median_low, summary.median_high),
        f"{number(summary.q1)} to {number(summary.q3)}",
        summary.minimum,
        summary.maximum,
    ]


def definitions(settings: Mapping[str, object], measures: Iterable[str]) -> list[str]:
    """The settings, and what each measure means."""
    lines = [paragraph(f"{name.replace('_', ' ')}: {value}") for name, value in settings.items()]
    arrows = {"higher": "higher is better", "lower": "lower is better", "zero": "nearer to 0 is better"}
    rows = [(m.label, name, arrows[m.better], m.text) for name, m in KNOWN.items() if name in set(measures)]
    return [*lines, table(("measure", "column", "direction", "definition (P predicted, R reference)"), rows, (3,))]
