"""What is a model worth when modalities are missing? The same cases with every subset of the modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from differseg_med.atomic import replacing
from differseg_med.metrics.policy import MEASURES
from differseg_med.metrics.rows import Row, is_failed, subject_of
from differseg_med.metrics.statistics import MeasureSummary, summarize
from differseg_med.reports import figures
from differseg_med.reports.provenance import provenance
from differseg_med.reports.subsets import write_subsets_page
from differseg_med.tables import write_frame

SUBSET_MEASURES = ("dice", "hd95_mm", "surface_dice")

Subset = tuple[str, ...]


def all_subsets(modalities: Sequence[str]) -> list[Subset]:
    """All 2^M - 1 subsets that are not empty, the largest first, modalities in declared order."""
    return [subset for size in range(len(modalities), 0, -1) for subset in combinations(modalities, size)]


def subset_name(subset: Subset) -> str:
    """Name of a subset, also for folders: ``t1+pet``."""
    return "+".join(subset)


def write_subsets(
    results: Mapping[Subset, Sequence[Row]], modalities: Sequence[str], out_dir: str | Path
) -> list[dict[str, Any]]:
    """Write ``subsets.csv``, ``subsets.png`` and ``subsets.html``.

    Args:
        results: rows as for `write_metrics`, by the modalities that were given to the model.
        modalities: all modalities in declared order.
        out_dir: folder of the files.

    Returns:
        The lines of ``subsets.csv``: per subset one column per modality (1 given, 0 withheld), counts, and per measure
        mean, interval and median. ``with_all_given`` of the measured cases had every modality of the subset: what the
        cohort table lacks cannot be given.

    Raises:
        ValueError: if the subsets were not measured on the same cases, or none was.
    """
    import pandas as pd  # see metrics_table

    cases = {frozenset(str(row["case_id"]) for row in rows) for rows in results.values()}
    if len(cases) != 1:
        raise ValueError(f"all subsets must have the same cases, got {len(cases)} different lists of cases")
    out_dir = Path(out_dir)
    lines, dice = [], {}
    for subset, rows in results.items():
        line, summaries = _line(subset, rows, modalities)
        lines.append(line)
        if summaries:
            dice[subset_name(subset)] = summaries["dice"]
    if not dice:
        raise ValueError("no case was measured with any subset")
    plot = figures.bars(dice, MEASURES["dice"].label)
    with replacing(out_dir / "subsets.png") as temporary:
        temporary.write_bytes(plot)
    write_frame(out_dir / "subsets.csv", pd.DataFrame(lines))
    write_subsets_page(lines, plot, out_dir / "subsets.html", provenance())
    return lines


def _line(
    subset: Subset, rows: Sequence[Row], modalities: Sequence[str]
) -> tuple[dict[str, Any], dict[str, MeasureSummary]]:
    done = [row for row in rows if not is_failed(row)]
    subjects = [subject_of(row) for row in done]
    line: dict[str, Any] = {"given": subset_name(subset)} | {name: int(name in subset) for name in modalities}
    line |= {"cases": len(rows), "failed": len(rows) - len(done)}
    line["with_all_given"] = sum(row.get("modalities") == subset_name(subset) for row in done)
    line["empty_prediction"] = sum(row["empty"] == "prediction" for row in done)
    summaries = {
        name: summarize([row[name] for row in done], subjects) for name in SUBSET_MEASURES if done and name in done[0]
    }
    for name in SUBSET_MEASURES:
        found = summaries.get(name)
        line[f"{name}_mean"] = found and found.mean
        line[f"{name}_low"], line[f"{name}_high"] = (found.mean_low, found.mean_high) if found else (None, None)
        line[f"{name}_median"] = found and found.median
    return line, summaries
