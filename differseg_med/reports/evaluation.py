"""``evaluation.html``: one page that a reviewer can read without the files behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from differseg_med.metrics.policy import KNOWN, MEASURES
from differseg_med.metrics.rows import Row, subject_of, worst_first
from differseg_med.metrics.statistics import MeasureSummary, summarize
from differseg_med.reports import figures, html

SUBGROUP_MEASURES = ("dice", "hd95_mm", "surface_dice")


def write_evaluation_page(
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    path: str | Path,
    *,
    pictures: Mapping[str, Path] | None = None,
    group_by: Sequence[str] = (),
    title: str = "Evaluation",
) -> Path:
    """Write the page of an evaluation.

    Args:
        rows: as for `write_metrics`.
        summary: what `write_metrics` returned.
        path: the file to write.
        pictures: PNG files of overlays by case id, in the order of the page.
        group_by: columns of ``rows`` for tables of subgroups, besides ``modalities``.
        title: title of the page.
    """
    done = worst_first(rows)
    parts = [*_outcome(summary), *_policy(summary)]
    if done:
        parts += [*_measures(summary), *_plots(done), *_subgroups(done, group_by), *_cases(done)]
        for case, file in (pictures or {}).items():
            parts.append(html.picture(file.read_bytes(), f"{case}: prediction and reference"))
    parts += [
        html.heading("Settings and definitions"),
        *html.definitions(summary["settings"], summary["metrics"] or MEASURES),
    ]
    return html.write_page(path, title, parts)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """How many cases stand behind the figures, and how many of them had an empty mask."""
    return (
        f"{counts['evaluated']} of {counts['cases']} cases measured, {counts['failed']} failed; "
        f"{counts['subjects']} subjects; {_empty(counts)} cases with an empty mask (prediction only: "
        f"{counts['empty_prediction']}, reference only: {counts['empty_reference']}, both: {counts['empty_both']})."
    )


def _empty(counts: Mapping[str, int]) -> int:
    return counts["empty_prediction"] + counts["empty_reference"] + counts["empty_both"]


def _outcome(summary: Mapping[str, Any]) -> Iterator[str]:
    yield html.paragraph(counts_in_words(summary["counts"]))
    for failed in summary["failed_cases"]:
        reason = failed["reason"] or f"case {failed['case_id']}: no reason was given"
        yield html.paragraph(f"Failed, in no figure below: {reason}", "failed")
    for kind, cases in summary["empty_cases"].items():
        if cases:
            which = "Both masks" if kind == "both" else f"Only the {kind}"
            yield html.paragraph(f"{which} empty, counted by the policy: {', '.join(cases)}", "notice")
    for notice in summary.get("notices", ()):
        yield html.paragraph(notice, "notice")


def _policy(summary: Mapping[str, Any]) -> list[str]:
    return [html.heading("Policy"), html.paragraph(summary["policy"])]


def _measures(summary: Mapping[str, Any]) -> list[str]:
    empty = _empty(summary["counts"])
    lines = [
        [KNOWN[name].label, empty, *html.summary_cells(MeasureSummary(**fields))]
        for name, fields in summary["metrics"].items()
    ]
    return [
        html.heading("MeasureSummary"),
        html.paragraph(f"{counts_in_words(summary['counts'])} Intervals: {summary['intervals']}."),
        html.table(("measure", "with an empty mask", *html.SUMMARY_HEADER), lines),
        *_saliency(summary.get("saliency", {})),
    ]


def _saliency(measures: Mapping[str, float]) -> Iterator[str]:
    """Pictures: what benchmarks print of the whole set."""
    if measures:
        yield html.paragraph("As benchmarks print them, E max and F max of the mean curve over 256 thresholds:")
        yield html.table([KNOWN[name].label for name in measures], [list(measures.values())])


def _plots(done: Sequence[Row]) -> list[str]:
    values = {name: [row[name] for row in done] for name in KNOWN if name in done[0]}
    empty = [row["empty"] != "none" for row in done]
    number = f"{len(done)} cases, {sum(empty)} of them with an empty mask"
    distribution = figures.distributions(values, empty)
    parts = [
        html.heading("Distributions"),
        html.picture(distribution, f"{number} (crosses). Box: quartiles and median."),
    ]
    if "volume_ml" not in done[0]:  # pictures
        return parts
    agreement = figures.bland_altman([row["volume_ml"] for row in done], [row["reference_ml"] for row in done])
    return [
        *parts,
        html.heading("Volumes"),
        html.picture(agreement, f"Bland-Altman plot of {number}: mean difference and limits of agreement."),
    ]


def _subgroups(done: Sequence[Row], group_by: Sequence[str]) -> Iterator[str]:
    for column in dict.fromkeys((*group_by, "modalities")):
        groups: dict[str, list[Row]] = {}
        for row in done:
            groups.setdefault(str(row.get(column, "") or ""), []).append(row)
        if set(groups) == {""}:
            continue  # the cohort table has no such column
        yield html.heading(f"By {column}")
        lines = []
        for name, members in sorted(groups.items()):
            subjects = [subject_of(row) for row in members]
            empty = sum(row["empty"] != "none" for row in members)
            for measure in [m for m in SUBGROUP_MEASURES if m in done[0]]:
                summary = summarize([row[measure] for row in members], subjects)
                lines.append([name or "(blank)", KNOWN[measure].label, empty, *html.summary_cells(summary)])
        yield html.table((column, "measure", "with an empty mask", *html.SUMMARY_HEADER), lines)


def _cases(done: Sequence[Row]) -> list[str]:
    wanted = ("case_id", "modalities", *KNOWN, "volume_ml", "reference_ml", "empty", "notice")
    columns = [c for c in wanted if any(c in row for row in done)]
    names = [KNOWN[c].label if c in KNOWN else c for c in columns]
    lines = [[row.get(column, "") for column in columns] for row in done]
    wide = [i for i, column in enumerate(columns) if column == "notice"]
    return [html.heading("Cases, worst Dice first"), html.table(names, lines, wide)]
