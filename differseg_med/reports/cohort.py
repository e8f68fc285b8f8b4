"""``check.html`` and ``audit.html``: what a cohort is made of, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from differseg_med.reports.pages import Notice, Section, Table, write_page
from differseg_med.reports.provenance import provenance

_KINDS = {"error": "failed", "warning": "notice"}
"""How a level looks."""

Lines = Sequence[Mapping[str, object]]


def write_check_page(
    path: str | Path,
    told: Sequence[tuple[str, str]],
    presence: Lines,
    cases: Lines,
    findings: Sequence[tuple[str, str, str, str]],
    sound: str,
) -> Path:
    """Write the page of a check: errors and warnings first.

    Args:
        path: the file to write.
        told: level and text of each error and warning.
        presence: which cases have what.
        cases: a line for each case, with its numbers of errors and warnings.
        findings: case, column, level and message of every finding.
        sound: what to say if there are no errors and no warnings.
    """
    counts = Counter(level for level, _ in told)
    worst_first = sorted(cases, key=lambda line: [-int(str(line[name])) for name in ("errors", "warnings")])
    kinds = ["failed" if line["errors"] else "notice" if line["warnings"] else "" for line in worst_first]
    header = ("case", "column", "level", "finding")
    levels = [_KINDS.get(level, "") for _, _, level, _ in findings]
    sections = [
        Section("Cases", [_table("Cases, those with errors first", worst_first, kinds)]),
        Section("Which cases have what", [_table("Modalities that are there", presence)]),
        Section("Every finding", [Table("Every finding, those in order too", header, findings, (3,), levels, {}, 2)]),
    ]
    return write_page(
        path,
        "Check of the cohort",
        sections,
        lead="" if told else sound,
        notices=[Notice(text, _KINDS[level]) for level, text in told],
        tiles={"cases": len(cases), "errors": counts["error"], "warnings": counts["warning"]},
        provenance=provenance(),
    )


def write_audit_page(
    path: str | Path,
    lead: str,
    presence: Lines,
    told: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
    everything: Sequence[Sequence[object]],
) -> Path:
    """Write the page of a scan: what got no place in the table first.

    Args:
        path: the file to write.
        lead: the outcome in a sentence.
        presence: which cases have what; may be empty.
        told: texts by level, ``error`` and ``warning``.
        counts: number of series and files by level.
        everything: case, series or file, column, level and reason of all that was found.
    """
    sections = []
    for level, title in (("error", "Errors"), ("warning", "Warnings")):
        if counts.get(level):
            notices = [Notice(text, _KINDS[level]) for text in told.get(level, ())]
            sections.append(Section(f"{title} ({counts[level]})", notices))
    if presence:
        sections.append(Section("Which cases have what", [_table("Modalities that are there", presence)]))
    header = ("case", "series or file", "column", "level", "what became of it")
    kinds = [_KINDS.get(str(row[3]), "") for row in everything]
    table = Table("Every series, segmentation and file", header, everything, (1, 4), kinds, {}, 3)
    sections.append(Section("Everything that was found", [table]))
    return write_page(path, "Audit of the scan", sections, lead=lead, provenance=provenance())


def _table(caption: str, lines: Lines, kinds: Sequence[str] = ()) -> Table:
    header = list(lines[0]) if lines else []
    return Table(caption, header, [[line[name] for name in header] for line in lines], kinds=kinds)
