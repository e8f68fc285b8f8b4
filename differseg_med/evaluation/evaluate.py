"""Compare a folder of predicted masks with the labels of a cohort: scores, summary and a page to read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from differseg_med.atomic import replacing
from differseg_med.case import Case, run_for_case
from differseg_med.errors import CaseError, shown
from differseg_med.evaluation.images2d import draw_image2d, measure_image2d
from differseg_med.evaluation.predictions import MASK, Predictions, predicted_ids
from differseg_med.evaluation.run import STEP, evaluation_step, make_room, refuse_the_label, too_good
from differseg_med.evaluation.tables import write_metrics
from differseg_med.geometry import BoolArray, Grid, almost_same_grid, describe, differences
from differseg_med.grids import audit_grids, raise_on_errors
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.io.dicom.reader import is_dicom
from differseg_med.io.images2d import is_image2d
from differseg_med.io.labels import load_case_label, load_label
from differseg_med.io.mask_values import foreground
from differseg_med.io.slicer_header import is_segmentation
from differseg_med.io.volumes import load_volume
from differseg_med.keys import NOTES
from differseg_med.metrics.case import Settings, binary, case_metrics
from differseg_med.metrics.policy import KNOWN
from differseg_med.metrics.rows import DONE, Row, is_failed, worst_first
from differseg_med.metrics.saliency import Saliency
from differseg_med.modality import display_windows
from differseg_med.reports.evaluation import write_evaluation_page
from differseg_med.reports.overlay import closest_ras, draw_overlay
from differseg_med.reports.pages import number
from differseg_med.reports.provenance import provenance
from differseg_med.runs.folder import occupied
from differseg_med.runs.manifest import recording
from differseg_med.runs.stamps import inputs_of
from differseg_med.transforms.grids import grid_of, restore_grid
from differseg_med.transforms.restoring import resample_mask

logger = logging.getLogger(__name__)

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
    tables: Sequence[Path] = (),
) -> Evaluation:
    """Measure every case of a cohort against its mask in ``predictions_dir`` and write the reports.

    A case that cannot be measured is listed as failed and does not stop the others. A prediction that does not exist
    counts as an empty mask; predictions of no case in ``cases`` are listed.

    Args:
        cases: rows of the cohort table, each with a label.
        predictions_dir: folder of predictions, see `Predictions`; ``FOLDER::1,2``, ``FOLDER::>=0.5`` or
            ``FOLDER::segment`` says what of them is meant, as in cells of the cohort table.
        out_dir: folder for ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and ``overlays/<case_id>.png``.
        settings: tolerance of surface Dice and match rule of lesions.
        group_by: extra columns of the cohort table for the tables of subgroups; present modalities are always one.
        worst: how many of the worst cases get an overlay.
        progress: wraps the cases, for example ``tqdm``.
        tables: the cohort table, which is never written.

    Raises:
        CaseError: if the folder does not exist, or holds no prediction of any of the cases; or if results would be
            written onto data, or beside the masks of another run.
    """
    folder, selector = split_cell(predictions_dir)
    out_dir, settings = Path(out_dir), settings or Settings()
    extra = check_predictions(cases, folder)
    predictions = Predictions(folder)
    masks, unclear = dict[str, Path](), dict[str, CaseError]()
    for case in cases:
        try:
            masks[case.case_id] = predictions.find(case.case_id)
        except CaseError as error:
            masks[case.case_id], unclear[case.case_id] = folder / case.case_id, error
    cases = [replace(c, problem=c.problem or unclear.get(c.case_id)) for c in cases]
    inputs = [*tables, *masks.values(), *(path for case in cases for path in inputs_of(case))]
    with occupied(out_dir, inputs):
        step = evaluation_step(cases, masks, settings)
        make_room(out_dir, folder)
        with recording(out_dir, STEP, step):
            measured = Measurements(settings, group_by, worst)
            for case in progress(cases):
                measured.add(case, join_cell(masks[case.case_id], selector))
            return measured.write(out_dir, extra, provenance())


class Measurements:
    """The scores of a cohort, case by case: each label is read once, and one case is in memory at a time.

    Args:
        settings: tolerance of surface Dice and match rule of lesions.
        group_by: columns of the cohort table for the tables of subgroups.
        worst: how many of the worst cases get an overlay.
    """

    def __init__(
        self, settings: Settings | None = None, group_by: Sequence[str] = GROUP_COLUMNS, worst: int = 5
    ) -> None:
        self.settings, self.group_by, self.worst = settings or Settings(), tuple(group_by), worst
        self.rows: list[dict[str, Any]] = []
        self._saliency = Saliency(self.settings.stretch)
        self._worst: list[Row] = []
        self._overlays: dict[str, bytes] = {}

    def add(self, case: Case, prediction: str | Path, label: MetaTensor | None = None) -> None:
        """Measure a case; one that cannot be measured becomes a failed row.

        Args:
            case: with a label, or with a problem.
            prediction: the mask file; if it does not exist, an empty mask counts.
            label: what `read_reference` returned, if it has been read already.
        """
        row: dict[str, Any] = {"case_id": case.case_id, "subject_id": case.subject_id, "status": DONE, "reason": ""}
        row |= {"modalities": case.modalities} | {name: case.extra.get(name, "") for name in self.group_by}
        self.rows.append(row)
        try:
            if case.problem is not None:
                raise case.problem
            refuse_the_label(case, prediction)
            label = run_for_case(read_reference, case, case) if label is None else label
            found = run_for_case(lambda label: self._scores(prediction, label, case), label, case)
        except CaseError as error:
            row |= {"status": "failed", "reason": str(error.for_case(case.case_id, case.files)), "notice": ""}
            if case.problem is None:  # else it has been told already
                logger.error("%s", row["reason"])
            return
        if found.notice:
            logger.warning("case %s: %s", case.case_id, found.notice)
        row |= found.scores | {"notice": found.notice}
        self._worst = worst_first([*self._worst, row])[: self.worst]
        if any(one is row for one in self._worst):
            self._draw(case, found.mask, label)

    def _scores(self, prediction: str | Path, label: MetaTensor, case: Case) -> Measured:
        reference_images = case.reference_images or tuple(case.images.values())
        return measure_file(prediction, label, self.settings, self._saliency, reference_images)

    def _draw(self, case: Case, mask: BoolArray, label: MetaTensor) -> None:
        """Keep a picture while label and mask are in memory; those of cases that are no longer the worst go."""
        self._overlays = {str(r["case_id"]): o for r in self._worst if (o := self._overlays.get(str(r["case_id"])))}
        try:
            self._overlays[case.case_id] = run_for_case(lambda label: draw_case(case, mask, label), label, case)
        except CaseError as error:  # the scores are there; a picture less must not cost them
            logger.warning("no overlay: %s", error.for_case(case.case_id, case.files))

    def write(
        self, out_dir: str | Path, extra: Sequence[str] = (), made_by: Mapping[str, str] | None = None
    ) -> Evaluation:
        """Write ``metrics.csv``, ``metrics.json``, ``evaluation.html`` and the overlays of the worst cases.

        Args:
            out_dir: where to.
            extra: names of predictions that no case asks for.
            made_by: for the head of the page.
        """
        out_dir = Path(out_dir)
        notices = (
            [f"predictions that no case of the cohort asks for, not measured: {', '.join(extra)}"] if extra else []
        )
        if notice := too_good(self.rows):
            logger.warning("%s", notice)
            notices.append(notice)
        saliency = self._saliency.results()
        summary = write_metrics(self.rows, out_dir, settings=self.settings, notices=notices, saliency=saliency)
        ids = [str(row["case_id"]) for row in self._worst]
        overlays = {case_id: self._overlays[case_id] for case_id in ids if case_id in self._overlays}
        for case_id, drawn in overlays.items():
            with replacing(out_dir / "overlays" / f"{case_id}.png") as temporary:
                temporary.write_bytes(drawn)
        page = out_dir / "evaluation.html"
        write_evaluation_page(self.rows, summary, page, pictures=overlays, group_by=self.group_by, provenance=made_by)
        means = [f"{KNOWN[name].label} {number(found['mean'])}" for name, found in summary["metrics"].items()][:2]
        counts = f"{summary['counts']['evaluated']} of {len(self.rows)} cases measured"
        logger.info("%s: %s", ", mean ".join([counts, *means]), shown(page))
        return Evaluation(self.rows, summary, out_dir)


def check_predictions(cases: Sequence[Case], predictions_dir: Path) -> list[str]:
    """Names of the predictions that belong to none of the cases.

    Raises:
        CaseError: if the folder does not exist, or holds no prediction of any of the cases.
    """
    if not predictions_dir.is_dir():
        raise CaseError("there is no folder with predictions here", file=predictions_dir)
    found = predicted_ids(predictions_dir)
    wanted = {case.case_id for case in cases}
    predictions = Predictions(predictions_dir)
    if not found & wanted and not any(_there(predictions, case.case_id) for case in cases):
        raise CaseError(
            "the folder holds no prediction of any of these cases",
            file=predictions_dir,
            expected=f"<case_id>/{MASK}, for example {cases[0].case_id}/{MASK}" if cases else "cases",
            found=f"predictions of {', '.join(sorted(found)[:5])}" if found else "no predictions",
            remedy="Check the folder and the cohort table.",
        )
    return sorted(found - wanted)


def _there(predictions: Predictions, case_id: str) -> bool:
    """Whether there is a prediction of a case; of several that could be meant, its own row tells."""
    try:
        return predictions.find(case_id).is_file()
    except CaseError:
        return True


def evaluate_case(
    case: Case, prediction: str | Path, settings: Settings | None = None, saliency: Saliency | None = None
) -> tuple[dict[str, float | bool | str], str]:
    """Measure one predicted file on the grid of the case's label.

    Args:
        case: a case with a label.
        prediction: the mask file, with ``::VALUES`` if need be; if it does not exist, an empty mask counts.
        settings: as for `case_metrics`.
        saliency: account of a set of pictures.

    Returns:
        What `case_metrics` returns, and a notice for the reader (empty for none): what had to be assumed or resampled.

    Raises:
        CaseError: if a file cannot be read, is not binary, or lies in another space.
    """
    if case.problem is not None:
        raise case.problem
    refuse_the_label(case, prediction)
    found = measure_file(prediction, read_reference(case), settings, saliency)
    return found.scores, found.notice


@dataclass(frozen=True)
class Measured:
    """A predicted file against its label.

    Args:
        scores: what `case_metrics` returns.
        mask: the prediction on the label's grid.
        notice: what had to be assumed or resampled; empty for nothing.
    """

    scores: dict[str, float | bool | str]
    mask: BoolArray
    notice: str


def read_reference(case: Case) -> MetaTensor:
    """The label of a case, 0 and 1, ``(1, H, W, D)`` uint8 that knows its grid and file.

    Raises:
        CaseError: without a label, or if it cannot be read or is not binary.
    """
    label = load_case_label(case)
    binary(label.numpy(), "reference", case.label)
    return label.to(torch.uint8)  # a quarter of the memory, as it is kept while the case is segmented


def measure_file(
    prediction: str | Path,
    label: MetaTensor,
    settings: Settings | None = None,
    saliency: Saliency | None = None,
    reference_images: Sequence[str | Path] = (),
) -> Measured:
    """Measure one predicted file against what `read_reference` returned; further arguments as of `evaluate_case`.

    Whatever a label may be: segmentations of 3D Slicer, DICOM SEG and RTSTRUCT are placed on ``reference_images``.

    Raises:
        CaseError: as `evaluate_case`.
    """
    if is_image2d(label):
        return Measured(
            *measure_image2d(split_cell(prediction)[0], label, Saliency() if saliency is None else saliency)
        )
    grid = grid_of(label)
    predicted, notice = _prediction(prediction, grid, reference_images)
    notice = "; ".join(filter(None, (*(f"label: {note}" for note in label.meta.get(NOTES, ())), notice)))
    scores = case_metrics(predicted, binary(label[0].numpy(), "reference"), grid.spacing_mm, settings=settings)
    return Measured(scores, predicted, notice)


def draw_case(case: Case, mask: BoolArray, label: MetaTensor) -> bytes:
    """Draw prediction and label over the images of a case: a PNG, see `draw_overlay`.

    Args:
        case: whose images are read.
        mask: the prediction on the label's grid.
        label: what `read_reference` returned.

    Raises:
        CaseError: if an image cannot be read.
    """
    if is_image2d(label):
        return draw_image2d(case, mask, label)
    grid = grid_of(label)
    images = {name: restore_grid(load_volume(file), grid)[0].numpy() for name, file in case.images.items()}
    reference, spacing_mm = closest_ras(binary(label[0].numpy(), "reference"), grid.affine)
    backgrounds = {name: closest_ras(image, grid.affine)[0] for name, image in images.items()}
    return draw_overlay(
        backgrounds or np.zeros_like(reference),
        closest_ras(mask, grid.affine)[0],
        spacing_mm=spacing_mm,
        reference=reference,
        title=case.case_id,
        windows=display_windows(case.kinds),
    )


def _prediction(cell: str | Path, grid: Grid, reference_images: Sequence[str | Path] = ()) -> tuple[BoolArray, str]:
    """The predicted mask on ``grid``, and a notice."""
    path, selector = split_cell(cell)
    if not path.is_file():
        return np.zeros(grid.shape, dtype=np.bool_), "there is no prediction: an empty mask counts"
    if is_segmentation(path) or is_dicom(cell):
        volume, notes = load_label(str(cell), reference_images), list[str]()
        chosen = volume[0] > 0
    else:
        volume = load_volume(path, mask=True)
        chosen, notes = foreground(volume[0], selector, path, predicted=True)
    notes = [f"prediction: {note}" for note in (*volume.meta.get(NOTES, ()), *notes)]
    mask, own = np.asarray(chosen.numpy(), dtype=np.bool_), grid_of(volume)
    del volume, chosen
    findings = audit_grids({"label": grid, "prediction": own}, "label", files={"prediction": path})
    raise_on_errors(findings)
    if almost_same_grid(own, grid):
        return mask, "; ".join(notes)
    moved = resample_mask(mask.view(np.uint8), own, grid).view(np.bool_)
    notice = f"resampled from its own grid ({differences(own, grid)}) to the label's ({describe(grid)})"
    before, after = (int(m.sum()) * g.voxel_volume_mm3 for m, g in ((mask, own), (moved, grid)))
    if before - after > LOST_SHARE * before:
        notice += f"; {1 - after / before:.0%} of the predicted volume is not on the label's grid"
    return moved, "; ".join((*notes, notice))
