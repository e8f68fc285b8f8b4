"""The page itself: a table of the cases, three planes of the one that is chosen, and the form for the verdict."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import quote

from differseg_med.metrics.policy import KNOWN
from differseg_med.reports.pages import Table, environment
from differseg_med.review.results import Facts
from differseg_med.review.verdicts import Review

SHOWN_SCORES = ("dice", "hd95_mm")
"""Scores that the table has if the run was evaluated."""

_COLUMNS = {"status": "status", "modalities": "modalities", "volume_ml": "volume (ml)"}
_DIGITS = 3


def page(cases: Mapping[str, Facts], reviews: Mapping[str, Review], *, labels: bool) -> str:
    """The page as a text.

    Args:
        cases: see `differseg_med.review.results.read_results`.
        reviews: what was decided, by case id.
        labels: whether a cohort table with labels was given.
    """
    viewer = files("differseg_med.reports") / "viewer"
    return (
        environment()
        .get_template("view.html.j2")
        .render(
            title="Review of the masks",
            lead="",
            provenance={},
            tiles={},
            notices=[],
            sections=[],
            table=_table(cases, reviews),
            labels=labels,
            script=(viewer / "review.js").read_text(encoding="utf-8"),
        )
    )


def policy(text: str) -> str:
    """The Content-Security-Policy of a page: its own scripts, by their hashes, and its own server; nothing else."""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii") for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _table(cases: Mapping[str, Facts], reviews: Mapping[str, Review]) -> Table:
    names = {name: title for name, title in _COLUMNS.items() if any(row.get(name) for row in cases.values())}
    names |= {name: KNOWN[name].label for name in SHOWN_SCORES if any(row.get(name) for row in cases.values())}
    header = ["case", "verdict", "note", *names.values(), "flags"]
    rows, kinds = [], []
    for case, row in cases.items():
        review = reviews.get(case, Review())
        values = (short(row.get(name, "")) for name in names)
        rows.append([case, review.verdict, review.note, *values, row.get("flags", "")])
        kinds.append("failed" if row.get("reason") else "notice" if row.get("flags") else "")
    links = {case: f"#{quote(case, safe='')}" for case in cases}
    wide = (2, len(header) - 1)
    return Table("Cases: a click shows one", header, rows, wide, kinds, links)


def short(text: str) -> str:
    """A number with few digits; other texts as they are."""
    try:
        return f"{float(text):.{_DIGITS}f}" if "." in text else text
    except ValueError:
        return text
