"""Compare a folder of predicted masks with the labels of a cohort: scores, summary and a page to read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.evaluation.images2d import draw_picture, measure_picture
from differseg_med.evaluation.tables import write_metrics
from differseg_med.geometry import BoolArray, Grid, almost_same_grid, describe, differences
from differseg_med.grids import audit_grids, raise_on_errors
from differseg_med.io.images2d import is_picture
from differseg_med.io.labels import load_case_label
from differseg_med.io.volumes import load_volume
from differseg_med.metrics.case import Settings, binary, case_metrics
from differseg_med.metrics.policy import KNOWN
from differseg_med.metrics.rows import is_failed, worst_first
from differseg_med.metrics.saliency import Saliency
from differseg_med.reports.evaluation import write_evaluation_page
from differseg_med.reports.html import number
from differseg_med.reports.overlay import closest_ras, save_overlay
from differseg_med.transforms.grids import grid_of, restore_grid
from differseg_med.transforms.restoring import resample_mask

logger = logging.getLogger(__name__)

MASK, PICTURE_MASK = "mask.nii.gz", "mask.png"

GROUP_COLUMNS = ("site", "scanner")
"""Columns of the cohort table that reports group by. Other columns stay out of reports: they may say who a case is."""

LOST_SHARE = 0.01
"""Share of a predicted volume outside the reference's field of view from which on a notice says so."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found and wrote.

    Args:
        rows: one row per case, in the order of the cohort; see ``metrics.csv``.
        summary: the content of ``metrics.json``.
        out_dir: folder with ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and ``overlays``.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    out_dir: Path

    @property
    def failures(self) -> dict[str, str]:
        """Reasons by case id of the cases that could not be measured; not empty should end a command with an error."""
        return {row["case_id"]: row["reason"] for row in self.rows if is_failed(row)}


def evaluate_cohort(
    cases: Sequence[Case],
    predictions_dir: str | Path,
    out_dir: str | Path,
    *,
    settings: Settings | None = None,
    group_by: Sequence[str] = GROUP_COLUMNS,
    worst: int = 5,
    progress: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> Evaluation:
    """Measure every case of a cohort against its mask in ``predictions_dir`` (see `mask_file`) and write the reports.

    A case that cannot be measured is listed as failed and does not stop the others. A prediction that does not exist
    counts as an empty mask; predictions of no case in ``cases`` are listed.

    Args:
        cases: rows of the cohort table, each with a label.
        predictions_dir: folder with one folder per case, or one picture.
        out_dir: folder for ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and ``overlays/<case_id>.png``.
        settings: tolerance of surface Dice and match rule of lesions.
        group_by: extra columns of the cohort table for the tables of subgroups; present modalities are always one.
        worst: how many of the worst cases get an overlay.
        progress: wraps the cases, for example ``tqdm``.

    Raises:
        CaseError: if the folder does not exist, or holds no prediction of any of the cases.
    """
    predictions_dir, out_dir = Path(predictions_dir), Path(out_dir)
    settings = settings or Settings()
    extra = check_predictions(cases, predictions_dir)
    saliency = Saliency(settings.stretch)
    rows = [
        _row(case, mask_file(predictions_dir, case.case_id), settings, group_by, saliency) for case in progress(cases)
    ]
    notices = [f"predictions that no case of the cohort asks for, not measured: {', '.join(extra)}"] if extra else []
    summary = write_metrics(rows, out_dir, settings=settings, notices=notices, saliency=saliency.results())
    by_id = {case.case_id: case for case in cases}
    pictures = {}
    for row in worst_first(rows)[:worst]:
        case = by_id[row["case_id"]]
        try:
            pictures[case.case_id] = draw_overlay(
                case, mask_file(predictions_dir, case.case_id), out_dir / "overlays" / f"{case.case_id}.png"
            )
        except CaseError as error:  # the scores are there; a picture less must not cost them
            logger.warning("no overlay: %s", error.for_case(case.case_id))
    page = write_evaluation_page(rows, summary, out_dir / "evaluation.html", pictures=pictures, group_by=group_by)
    means = [f"{KNOWN[name].label} {number(found['mean'])}" for name, found in summary["metrics"].items()][:2]
    counts = f"{summary['counts']['evaluated']} of {len(rows)} cases measured"
    logger.info("%s: %s", ", mean ".join([counts, *means]), "/".join(page.parts[-2:]))
    return Evaluation(rows, summary, out_dir)


def mask_file(predictions_dir: Path, case_id: str) -> Path:
    """The predicted mask of a case: ``<case_id>/mask.nii.gz``, of a picture ``<case_id>/mask.png``.

    Other programs' pictures may also be saliency maps ``<case_id>.png``. Without any, the first of these names.
    """
    folder = predictions_dir / case_id
    names = (folder / MASK, folder / PICTURE_MASK, predictions_dir / f"{case_id}.png")
    return next((path for path in names if path.is_file()), names[0])


def check_predictions(cases: Sequence[Case], predictions_dir: Path) -> list[str]:
    """Names of the predictions that belong to none of the cases.

    Raises:
        CaseError: if the folder does not exist, or holds no prediction of any of the cases.
    """
    if not predictions_dir.is_dir():
        raise CaseError("there is no folder with predictions here", file=predictions_dir)
    found = {path.parent.name for name in (MASK, PICTURE_MASK) for path in predictions_dir.glob(f"*/{name}")}
    found |= {path.stem for path in predictions_dir.glob("*.png")}
    wanted = {case.case_id for case in cases}
    if not found & wanted:
        raise CaseError(
            "the folder holds no prediction of any of these cases",
            file=predictions_dir,
            expected=f"<case_id>/{MASK}, for example {cases[0].case_id}/{MASK}" if cases else "cases",
            found=f"predictions of {', '.join(sorted(found)[:5])}" if found else "no predictions",
            remedy="Check the folder and the cohort table.",
        )
    return sorted(found - wanted)


def evaluate_case(
    case: Case, prediction: Path, settings: Settings | None = None, saliency: Saliency | None = None
) -> tuple[dict[str, float | bool | str], str]:
    """Measure one predicted file on the grid of the case's label.

    Args:
        case: a case with a label.
        prediction: the mask file; if it does not exist, an empty mask counts.
        settings: as for `case_metrics`.
        saliency: account of a set of pictures.

    Returns:
        What `case_metrics` returns, and a notice for the reader (empty for none): what had to be assumed or resampled.

    Raises:
        CaseError: if a file cannot be read, is not binary, or lies in another space.
    """
    if case.problem is not None:
        raise case.problem
    label = load_case_label(case)
    grid = grid_of(label)
    reference = binary(label[0].numpy(), "reference", case.label)
    if is_picture(label):
        scores, _, notice = measure_picture(prediction, label, Saliency() if saliency is None else saliency)
        return scores, notice
    del label  # float32, four times the mask
    predicted, notice = _prediction(prediction, grid)
    return case_metrics(predicted, reference, grid.spacing_mm, settings=settings), notice


def draw_overlay(case: Case, prediction: Path, path: Path) -> Path:
    """Draw prediction and label of a case over its images, see `save_overlay`.

    Raises:
        CaseError: if a file cannot be read.
    """
    label = load_case_label(case)
    grid = grid_of(label)
    if is_picture(label):
        return draw_picture(case, measure_picture(prediction, label, Saliency())[1], label, path)
    predicted, _ = _prediction(prediction, grid)
    images = {name: restore_grid(load_volume(file), grid)[0].numpy() for name, file in case.images.items()}
    reference, spacing_mm = closest_ras(binary(label[0].numpy(), "reference", case.label), grid.affine)
    backgrounds = {name: closest_ras(image, grid.affine)[0] for name, image in images.items()}
    return save_overlay(
        backgrounds or np.zeros_like(reference),
        closest_ras(predicted, grid.affine)[0],
        path,
        spacing_mm=spacing_mm,
        reference=reference,
        title=case.case_id,
    )


def _row(
    case: Case, prediction: Path, settings: Settings, group_by: Sequence[str], saliency: Saliency
) -> dict[str, Any]:
    """The case's row of ``metrics.csv``: scores, or the reason why there are none."""
    row: dict[str, Any] = {"case_id": case.case_id, "subject_id": case.subject_id, "status": "ok", "reason": ""}
    row |= {"modalities": case.modalities} | {name: case.extra.get(name, "") for name in group_by}
    try:
        measures, notice = evaluate_case(case, prediction, settings, saliency)
    except CaseError as error:
        reason = str(error.for_case(case.case_id))
        if case.problem is None:  # else it has been told already
            logger.error("%s", reason)
        return row | {"status": "failed", "reason": reason, "notice": ""}
    if notice:
        logger.warning("case %s: %s", case.case_id, notice)
    return row | measures | {"notice": notice}


def _prediction(path: Path, grid: Grid) -> tuple[BoolArray, str]:
    """The predicted mask on ``grid``, and a notice."""
    if not path.is_file():
        return np.zeros(grid.shape, dtype=np.bool_), "there is no prediction: an empty mask counts"
    volume = load_volume(path)
    mask, own = binary(volume[0].numpy(), "predicted", path), grid_of(volume)
    del volume
    findings = audit_grids({"label": grid, "prediction": own}, "label", files={"prediction": path})
    raise_on_errors(findings)
    if almost_same_grid(own, grid):
        return mask, ""
    moved = resample_mask(mask.view(np.uint8), own, grid).view(np.bool_)
    notice = f"resampled from its own grid ({differences(own, grid)}) to the label's ({describe(grid)})"
    before, after = (int(m.sum()) * g.voxel_volume_mm3 for m, g in ((mask, own), (moved, grid)))
    if before - after > LOST_SHARE * before:
        notice += f"; {1 - after / before:.0%} of the predicted volume is not on the label's grid"
    return moved, notice
