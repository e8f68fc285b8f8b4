"""Naive predictions that use no network: what a score has to beat before it means anything.

Crops around a tumour give its place away, and a tumour may be the brightest thing in the PET. Reports print these
baselines beside every score of the sarcoma data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.export.nifti import save_nifti
from differseg_med.geometry import Grid
from differseg_med.io.volumes import load_volume
from differseg_med.metrics.case import Settings, binary, case_metrics
from differseg_med.transforms.grids import grid_of, restore_grid

ELLIPSOID = "ellipsoid"
THRESHOLD = "threshold"


def ellipsoid_baseline(shape: Sequence[int], fraction: float = 0.6) -> NDArray[np.uint8]:
    """The ellipsoid in the middle of the box, its axes ``fraction`` of the box's, ``(H, W, D)``: looks at no image."""
    axes = (((np.arange(n) - (n - 1) / 2) / (n / 2)) ** 2 for n in shape)
    squares = sum(np.meshgrid(*axes, indexing="ij", sparse=True), np.zeros(()))
    return (squares <= fraction**2).astype(np.uint8)


def threshold_baseline(image: ArrayLike, share: float = 0.4) -> NDArray[np.uint8]:
    """What is brighter than ``share`` of the maximum of the image ``(H, W, D)``; for PET the customary 40 %."""
    array = np.asarray(image)
    return (array > share * float(array.max())).astype(np.uint8)


def baseline_masks(
    case: Case, *, modality: str = "pet", fraction: float = 0.6, share: float = 0.4
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.uint8], Grid]:
    """The naive predictions of one case on the grid of its label.

    The modality is brought to that grid by linear interpolation first, and its maximum is that of the resampled image.

    Args:
        case: a case with a label.
        modality: the modality to threshold; without it there is only the ellipsoid.
        fraction: axes of the ellipsoid as a share of the box.
        share: threshold as a share of the maximum.

    Returns:
        Masks ``(H, W, D)`` by name (``ellipsoid``, ``threshold``), the reference mask, and their grid.

    Raises:
        CaseError: without a label, or if a file cannot be read.
    """
    if case.label is None:
        raise CaseError("the case has no label to compare with", case=case.case_id)
    label = load_volume(case.label, mask=True)
    grid = grid_of(label)
    masks = {ELLIPSOID: ellipsoid_baseline(grid.shape, fraction)}
    if modality in case.images:
        masks[THRESHOLD] = threshold_baseline(restore_grid(load_volume(case.images[modality]), grid)[0].numpy(), share)
    return masks, binary(label[0].numpy(), "reference", case.label).astype(np.uint8), grid


def baselines(case: Case, *, modality: str = "pet", settings: Settings | None = None) -> dict[str, dict[str, Any]]:
    """Measure the baselines of one case, see `baseline_masks`.

    Returns:
        Rows as of `case_metrics`, with ``case_id`` and ``subject_id``, by name of the baseline.
    """
    masks, reference, grid = baseline_masks(case, modality=modality)
    ids = {"case_id": case.case_id, "subject_id": case.subject_id}
    return {
        name: {**ids, **case_metrics(mask, reference, grid.spacing_mm, settings=settings)}
        for name, mask in masks.items()
    }


def write_baselines(cases: Sequence[Case], out_dir: str | Path, *, modality: str = "pet") -> dict[str, Path]:
    """Save the baselines of a cohort as predictions, so that they are evaluated and compared like those of a model.

    Args:
        cases: cases with a label; those without the modality have only the ellipsoid.
        out_dir: masks go to ``out_dir/<baseline>/<case_id>/mask.nii.gz``.
        modality: the modality to threshold.

    Returns:
        The folder of predictions by name of the baseline.

    Raises:
        CaseError: without a label, or if a file cannot be read.
    """
    folders: dict[str, Path] = {}
    for case in cases:
        masks, _, grid = baseline_masks(case, modality=modality)
        for name, mask in masks.items():
            folders[name] = Path(out_dir) / name
            save_nifti(mask, grid.affine, folders[name] / case.case_id / "mask.nii.gz")
    return folders
