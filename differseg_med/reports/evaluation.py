"""``evaluation.html``: one page that a reviewer can read without the files behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from differseg_med.metrics.calibration import calibration_errors
from differseg_med.metrics.policy import KNOWN, MEASURES
from differseg_med.metrics.rows import Row, subject_of, worst_first
from differseg_med.metrics.statistics import MeasureSummary, summarize
from differseg_med.reports import figures
from differseg_med.reports.pages import (
    SUMMARY_HEADER,
    Figure,
    Notice,
    Section,
    Table,
    definitions,
    number,
    summary_cells,
    write_page,
)

SUBGROUP_MEASURES = ("dice", "hd95_mm", "surface_dice")
TILES = ("dice", "hd95_mm", "surface_dice", "s_measure")


def write_evaluation_page(
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    path: str | Path,
    *,
    pictures: Mapping[str, bytes] | None = None,
    bins: Sequence[Mapping[str, Any]] = (),
    group_by: Sequence[str] = (),
    title: str = "Evaluation",
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of an evaluation: what needs attention first, then the figures, then how they were made.

    Args:
        rows: as for `write_metrics`.
        summary: what `write_metrics` returned.
        path: the file to write.
        pictures: overlays (PNG) by case id, in the order of the page.
        bins: of `reliability`, where the probability is known.
        group_by: columns of ``rows`` for tables of subgroups, besides ``modalities``.
        title: title of the page.
        provenance: what made it, see `differseg_med.reports.provenance`.
    """
    done = worst_first(rows)
    drawn = [Figure(png, f"{case}: prediction and reference") for case, png in (pictures or {}).items()]
    sections = [Section("Worst cases", drawn, "gallery")] if drawn else []
    if done:
        sections += [_cases(done), _measures(summary), _distributions(done), *_volumes(done)]
        sections += [*_calibration(bins), *_subgroups(done, group_by)]
    sections.append(Section("Policy", [summary["policy"]]))
    sections.append(definitions(summary["settings"], summary["metrics"] or MEASURES))
    return write_page(
        path,
        title,
        sections,
        lead=counts_in_words(summary["counts"]),
        notices=list(_notices(summary)),
        tiles=_tiles(summary),
        provenance=provenance or {},
    )


def counts_in_words(counts: Mapping[str, int]) -> str:
    """How many cases stand behind the figures, and how many of them had an empty mask."""
    return (
        f"{counts['evaluated']} of {counts['cases']} cases measured, {counts['failed']} failed; "
        f"{counts['subjects']} subjects; {_empty(counts)} cases with an empty mask (prediction only: "
        f"{counts['empty_prediction']}, reference only: {counts['empty_reference']}, both: {counts['empty_both']})."
    )


def _empty(counts: Mapping[str, int]) -> int:
    return counts["empty_prediction"] + counts["empty_reference"] + counts["empty_both"]


def _notices(summary: Mapping[str, Any]) -> Iterator[Notice]:
    for failed in summary["failed_cases"]:
        reason = failed["reason"] or f"case {failed['case_id']}: no reason was given"
        yield Notice(f"Failed, in no figure below: {reason}", "failed")
    for kind, cases in summary["empty_cases"].items():
        if cases:
            which = "Both masks" if kind == "both" else f"Only the {kind}"
            yield Notice(f"{which} empty, counted by the policy: {', '.join(cases)}")
    for notice in summary.get("notices", ()):
        yield Notice(notice)


def _tiles(summary: Mapping[str, Any]) -> dict[str, str]:
    counts, metrics = summary["counts"], summary["metrics"]
    tiles = {f"mean {KNOWN[name].label}": number(metrics[name]["mean"]) for name in TILES if name in metrics}
    tiles |= {"cases measured": f"{counts['evaluated']} of {counts['cases']}"}
    return tiles | ({"failed": str(counts["failed"])} if counts["failed"] else {})


def _measures(summary: Mapping[str, Any]) -> Section:
    empty = _empty(summary["counts"])
    lines = [
        [KNOWN[name].label, empty, *summary_cells(MeasureSummary(**fields))]
        for name, fields in summary["metrics"].items()
    ]
    parts: list[object] = [
        f"Intervals: {summary['intervals']}.",
        Table("Every measure over all cases", ("measure", "with an empty mask", *SUMMARY_HEADER), lines),
    ]
    if saliency := summary.get("saliency", {}):
        caption = "As benchmarks print them, E max and F max of the mean curve over 256 thresholds"
        parts.append(Table(caption, [KNOWN[name].label for name in saliency], [list(saliency.values())]))
    return Section("Summary", parts)


def _distributions(done: Sequence[Row]) -> Section:
    values = {name: [row[name] for row in done] for name in KNOWN if name in done[0]}
    empty = [row["empty"] != "none" for row in done]
    caption = f"{_counted(done)} (crosses); every dot is a case. Box: quartiles and median."
    return Section("Distributions", [Figure(figures.distributions(values, empty), caption)])


def _volumes(done: Sequence[Row]) -> Iterator[Section]:
    if "volume_ml" in done[0]:  # images of two axes have none
        drawn = figures.bland_altman([row["volume_ml"] for row in done], [row["reference_ml"] for row in done])
        caption = f"Bland-Altman plot of {_counted(done)}: mean difference and limits of agreement."
        yield Section("Volumes", [Figure(drawn, caption)])


def _calibration(bins: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    if bins:
        errors = ", ".join(f"{name} {value:.3f}" for name, value in calibration_errors(bins).items())
        caption = (
            f"Reliability diagram: share of target voxels in ten bins of the probability. Calibration error: {errors}."
        )
        yield Section("Calibration", [Figure(figures.reliability_diagram(bins), caption)])


def _counted(done: Sequence[Row]) -> str:
    return f"{len(done)} cases, {sum(row['empty'] != 'none' for row in done)} of them with an empty mask"


def _subgroups(done: Sequence[Row], group_by: Sequence[str]) -> Iterator[Section]:
    for column in dict.fromkeys((*group_by, "modalities")):
        groups: dict[str, list[Row]] = {}
        for row in done:
            groups.setdefault(str(row.get(column, "") or ""), []).append(row)
        if set(groups) == {""}:
            continue  # the cohort table has no such column
        lines = []
        for name, members in sorted(groups.items()):
            subjects = [subject_of(row) for row in members]
            empty = sum(row["empty"] != "none" for row in members)
            for measure in [m for m in SUBGROUP_MEASURES if m in done[0]]:
                summary = summarize([row[measure] for row in members], subjects)
                lines.append([name or "(blank)", KNOWN[measure].label, empty, *summary_cells(summary)])
        header = (column, "measure", "with an empty mask", *SUMMARY_HEADER)
        yield Section(f"By {column}", [Table(f"Measures by {column}", header, lines, choices=1)])


def _cases(done: Sequence[Row]) -> Section:
    wanted = ("case_id", "modalities", *KNOWN, "volume_ml", "reference_ml", "empty", "notice")
    columns = [c for c in wanted if any(c in row for row in done)]
    names = [KNOWN[c].label if c in KNOWN else c for c in columns]
    lines = [[row.get(column, "") for column in columns] for row in done]
    wide = [i for i, column in enumerate(columns) if column == "notice"]
    kinds = ["notice" if row["empty"] != "none" or row.get("notice") else "" for row in done]
    choices = columns.index("modalities") if "modalities" in columns else None
    return Section("Cases, worst Dice first", [Table("Scores of each case", names, lines, wide, kinds, {}, choices)])
