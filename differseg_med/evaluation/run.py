"""What surrounds an evaluation: its manifest, room for its results, and predictions that are the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.io.dicom.cells import split_cell
from differseg_med.metrics.case import Settings
from differseg_med.metrics.rows import is_failed
from differseg_med.runs.describe import described
from differseg_med.runs.manifest import Step, read_steps
from differseg_med.runs.stamps import case_stamps, stamp

METRICS, SUMMARY, PAGE, OVERLAYS = "metrics.csv", "metrics.json", "evaluation.html", "overlays"
RESULTS = (METRICS, SUMMARY, PAGE, OVERLAYS)
"""What an evaluation writes into its folder."""

STEP = "evaluate"
"""Name of the step in the manifest."""

SAME_CASES = 2
"""From so many cases on, masks that all equal their labels are remarked on."""


def evaluation_step(cases: Iterable[Case], masks: Mapping[str, Path], settings: Settings) -> Step:
    """What an evaluation is made of, for its manifest."""
    inputs = {
        case.case_id: {**case_stamps(case), "label": stamp(case.label or ""), "prediction": stamp(masks[case.case_id])}
        for case in cases
    }
    return Step.now(described(settings=settings), inputs)


def make_room(out_dir: Path, predictions_dir: Path) -> None:
    """Take away what an earlier evaluation has drawn; never beside the masks of another run.

    Raises:
        CaseError: if the folder holds the masks of another prediction.
    """
    steps = read_steps(out_dir)
    if "predict" in steps and out_dir.resolve() != predictions_dir.resolve():
        raise CaseError(
            "this folder holds the masks of another run, which these scores are not of",
            file=out_dir,
            remedy="Choose another --out.",
        )
    if STEP in steps:
        for name in steps[STEP].inputs:
            (out_dir / OVERLAYS / f"{name}.png").unlink(missing_ok=True)


def too_good(rows: Sequence[Mapping[str, Any]]) -> str:
    """A notice if all masks are their labels voxel for voxel, which no model and no second expert draws."""
    measured = [row for row in rows if not is_failed(row) and row.get("empty", "none") == "none"]
    same = [row for row in measured if row.get("dice") == 1.0 and not row.get("notice")]  # no notice: on the same grid
    if len(same) < SAME_CASES or len(same) < len(measured):
        return ""
    return f"all {len(same)} masks equal their labels voxel for voxel: make sure that they are no copies of them"


def refuse_the_label(case: Case, prediction: str | Path) -> None:
    """Refuse to compare a label with itself.

    Raises:
        CaseError: if the prediction is the file of the label.
    """
    mask = split_cell(prediction)[0]
    if case.label is not None and mask.is_file() and _same_file(mask, case.label):
        raise CaseError(
            "the prediction is the label itself, so their agreement says nothing",
            file=mask,
            remedy="Name the folder with the predicted masks.",
        )


def _same_file(prediction: Path, label: Path) -> bool:
    path, _ = split_cell(label)
    return path.is_file() and path.samefile(prediction)
