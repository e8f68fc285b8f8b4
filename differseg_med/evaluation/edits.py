"""Masks of a model against what became of them when somebody edited them: what changed, case by case."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.case import Case, run_for_case
from differseg_med.errors import CaseError, shown
from differseg_med.evaluation.evaluate import draw_case, measure_file, read_reference
from differseg_med.evaluation.predictions import Predictions
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.metrics.rows import DONE, FAILED, is_failed
from differseg_med.reports.edits import write_edits_page
from differseg_med.reports.provenance import provenance
from differseg_med.runs.folder import occupied
from differseg_med.runs.stamps import inputs_of
from differseg_med.tables import write_table

logger = logging.getLogger(__name__)

TABLE, PAGE = "edits.csv", "edits.html"
COLUMNS = (
    *("case_id", "status", "reason", "model_ml", "edited_ml", "change_ml", "change_percent"),
    *("assd_mm", "hd95_mm", "hd_mm", "dice", "notice"),
)
_DRAWN = 5


def compare_masks(
    cases: Sequence[Case],
    model: str | Path,
    edited: str | Path,
    out_dir: str | Path,
    *,
    progress: Callable[[Sequence[Case]], Iterable[Case]] = iter,
    tables: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Compare two folders of masks of the same cases: ``edits.csv`` and ``edits.html``.

    Args:
        cases: rows of the cohort table; their labels are not looked at.
        model: the first folder, see `Predictions`; ``FOLDER::2`` or ``FOLDER::segment`` says what of it is meant.
        edited: the second. Everything is measured on its grids; cases without a file there were not edited, and are
            left out.
        out_dir: folder of the results.
        progress: wraps the cases.
        tables: files that are never written.

    Returns:
        One row per case that was edited, by `COLUMNS`: volumes in ml, distances between the surfaces in mm, where a
        mask is empty by the policy of evaluations; a case that cannot be compared has failed, with the reason.

    Raises:
        CaseError: if a folder is not there, or no case has a file in the second.
    """
    (first, choice), (second, meant) = split_cell(model), split_cell(edited)
    for folder in (first, second):
        if not folder.is_dir():
            raise CaseError("there is no folder with masks here", file=folder)
    pairs = [(case, *_files(case, first, second)) for case in cases]
    known = [(case, before, after) for case, before, after in pairs if after is None or after.is_file()]
    if not known:
        raise CaseError("the folder holds no mask of any of these cases", file=second, remedy="Check folder and table.")
    files = [path for _, *found in known for path in found if path is not None]
    inputs = [*tables, *files, *(path for case in cases for path in inputs_of(case))]
    rows, changed = list[dict[str, Any]](), list[dict[str, Any]]()
    pictures: dict[str, bytes] = {}
    with occupied(out_dir, inputs):
        by_id = {case.case_id: (before, after) for case, before, after in known}
        for case in progress([case for case, *_ in known]):
            before, after = by_id[case.case_id]
            row, draw = _compared(case, before, choice, after, meant)
            rows.append(row)
            changed = _most_changed([*changed, row])
            names = [row["case_id"] for row in changed]
            if draw is not None and case.case_id in names and (picture := _drawn(case, draw)):
                pictures[case.case_id] = picture
            pictures = {name: pictures[name] for name in names if name in pictures}
        left = len(cases) - len(known)
        write_table(Path(out_dir) / TABLE, COLUMNS, rows)
        write_edits_page(rows, Path(out_dir) / PAGE, left, pictures, provenance())
    logger.info("%d edited masks compared, %d cases were not edited: %s", len(rows), left, shown(Path(out_dir) / PAGE))
    return rows


def _files(case: Case, first: Path, second: Path) -> tuple[Path | None, Path | None]:
    """The two masks of a case; None where several files could be meant, which its row then says."""
    found: list[Path | None] = []
    for folder in (first, second):
        try:
            found.append(Predictions(folder).find(case.case_id))
        except CaseError:
            found.append(None)
    return found[0], found[1]


def _compared(
    case: Case, before: Path | None, choice: str, after: Path | None, meant: str
) -> tuple[dict[str, Any], Callable[[], bytes] | None]:
    """The row of a case, and what draws it while its masks are in memory."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"case_id": case.case_id, "status": DONE}
    try:
        if before is None or after is None:
            raise CaseError("several files could be its mask", remedy="Leave the one that is meant in each folder.")
        if not before.is_file():
            raise CaseError("the first folder has no mask of it", file=before)
        drawn = replace(case, label=Path(join_cell(after, meant)), problem=None)
        label = run_for_case(read_reference, drawn, drawn)
        images = case.reference_images or tuple(case.images.values())
        first = join_cell(before, choice)
        found = run_for_case(lambda label: measure_file(first, label, reference_images=images), label, drawn)
    except CaseError as error:
        row |= {"status": FAILED, "reason": str(error.for_case(case.case_id))}
        logger.error("%s", row["reason"])
        return row, None
    scores = found.scores
    model_ml, edited_ml = float(scores["volume_ml"]), float(scores["reference_ml"])
    row |= {"model_ml": model_ml, "edited_ml": edited_ml, "change_ml": edited_ml - model_ml, "notice": found.notice}
    row["change_percent"] = 100 * (edited_ml - model_ml) / model_ml if model_ml else 100.0 * bool(edited_ml)
    row |= {name: scores[name] for name in ("assd_mm", "hd95_mm", "hd_mm", "dice")}
    return row, lambda: run_for_case(lambda label: draw_case(drawn, found.mask, label), label, drawn)


def _drawn(case: Case, draw: Callable[[], bytes]) -> bytes | None:
    try:
        return draw()
    except CaseError as error:  # a picture less must not cost the figures
        logger.warning("no overlay: %s", error.for_case(case.case_id))
        return None


def _most_changed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the cases to draw, those with the largest distance between the surfaces first."""
    changed = [row for row in rows if not is_failed(row) and row["dice"] < 1]
    return sorted(changed, key=lambda row: -np.float64(row["assd_mm"]))[:_DRAWN]
