"""``edits.html``: what editing changed in the masks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.metrics.policy import POLICY
from differseg_med.metrics.rows import is_failed
from differseg_med.reports.pages import Figure, Notice, Section, Table, number, write_page

HEADER = {
    "case_id": "case",
    "model_ml": "model (ml)",
    "edited_ml": "edited (ml)",
    "change_ml": "change (ml)",
    "change_percent": "change (%)",
    "assd_mm": "mean surface distance (mm)",
    "hd95_mm": "HD95 (mm)",
    "hd_mm": "largest surface distance (mm)",
    "dice": "Dice",
    "notice": "notice",
}


def write_edits_page(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    not_edited: int,
    pictures: Mapping[str, bytes],
    provenance: Mapping[str, str],
) -> Path:
    """Write the page.

    Args:
        rows: see `differseg_med.evaluation.edits.compare_masks`.
        path: the file to write.
        not_edited: cases that only the first folder has.
        pictures: overlays (PNG) by case id, in the order of the page.
        provenance: what made it.
    """
    done = sorted((row for row in rows if not is_failed(row)), key=lambda row: -float(row["assd_mm"]))
    same = sum(row["dice"] == 1 for row in done)
    drawn = [Figure(png, f"{case}: model and edited (reference)") for case, png in pictures.items()]
    lines = [[row[column] for column in HEADER] for row in done]
    sections = [Section("Most changed", drawn, "gallery")] if drawn else []
    if done:
        table = Table("From the model's mask to the edited one", list(HEADER.values()), lines, [len(HEADER) - 1])
        sections.append(Section("Cases, most changed first", [table]))
    sections.append(Section("Where a mask is empty", [POLICY]))
    tiles = {"masks that changed": f"{len(done) - same} of {len(done)}"}
    if done:
        tiles["median change of volume (ml)"] = number(float(np.median([row["change_ml"] for row in done])))
        tiles["median of the mean surface distance (mm)"] = number(float(np.median([row["assd_mm"] for row in done])))
    return write_page(
        path,
        "Model against edited masks",
        sections,
        lead=f"{len(done)} edited masks, {same} of them as the model drew them; {not_edited} cases were not edited.",
        notices=[Notice(f"Failed: {row['reason']}", "failed") for row in rows if is_failed(row)],
        tiles=tiles,
        provenance=provenance,
    )
