"""What the functions of the package return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import Finding
from differseg_med.export.nifti import save_nifti
from differseg_med.geometry import Grid


@dataclass(frozen=True)
class CohortResult:
    """What a run over a cohort did.

    Args:
        out_dir: folder with ``<case_id>/mask.nii.gz``, ``summary.csv`` and ``report.html``; after an evaluation also
            ``metrics.csv``, ``metrics.json`` and ``evaluation.html``.
        rows: of ``summary.csv``, one per case.
        metrics: of ``metrics.csv``, one per case; empty without an evaluation.
        failures: ids of the cases that failed or are incomplete; their rows say why.
        problem: the failures in one sentence; empty if there are none.
    """

    out_dir: Path
    rows: tuple[dict[str, Any], ...] = ()
    metrics: tuple[dict[str, Any], ...] = ()
    failures: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class TrainingResult:
    """What a training made: the files of its folder, and the rows of its log.

    Args:
        out_dir: folder of the training.
        best: checkpoint of the best validation, plain tensors; without one that of the last epoch.
        last: everything needed to go on.
        log: one row per epoch: loss, learning rate, validation Dice and HD95 in mm.
        best_dice: of ``best``; None without a validation.
        problem: cases that could not be read, in one sentence; empty if there are none.
    """

    out_dir: Path
    best: Path | None
    last: Path
    log: tuple[dict[str, float | str], ...]
    best_dice: float | None
    problem: str = ""


@dataclass(frozen=True)
class FoldsResult:
    """What a cross-validation found; the files of ``out_dir`` are described in docs/training.md.

    Args:
        out_dir: folder of the run.
        rows: of ``cases.csv``: per case and subset of the modalities what `case_metrics` returns, with ``fold`` and the
            rule that was chosen on the other folds.
        text: of ``summary.md``: means with 95 % bootstrap intervals by patient.
        rule: threshold and component rule chosen on all cases, to ship; None without a prediction.
        failures: ids of the cases without a score.
        problem: what went wrong, in one sentence; empty if nothing did.
    """

    out_dir: Path
    rows: tuple[dict[str, Any], ...] = ()
    text: str = ""
    rule: dict[str, Any] | None = None
    failures: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Segmentation:
    """The mask of one patient.

    Args:
        mask: ``(H, W, D)`` uint8 of 0 and 1, on `grid`.
        probability: ``(H, W, D)`` float32, before the threshold.
        grid: of the reference image: shape and RAS affine in mm.
        reference: the modality whose grid it is.
        modalities: those that the mask was made from.
        findings: warnings of what a reader should look at, and notes of what was done with the files.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    grid: Grid
    reference: str
    modalities: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in ml."""
        return float(self.mask.sum()) * self.grid.voxel_volume_mm3 / 1000

    def save(self, path: str | Path) -> Path:
        """Write the mask as NIfTI, verified by reading it back."""
        save_nifti(self.mask, self.grid.affine, path)
        return Path(path)
