"""The result of a case, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from differseg_med.case import Case
from differseg_med.evaluation.images2d import PROBABILITY_FILE
from differseg_med.evaluation.predictions import IMAGE2D_MASK, MASK
from differseg_med.export.nifti import save_nifti
from differseg_med.export.png import save_mask_png, save_probability_png
from differseg_med.geometry import Grid
from differseg_med.io.headers import nifti_header
from differseg_med.io.images2d import is_image
from differseg_med.io.volumes import load_volume
from differseg_med.reports.run import write_part
from differseg_med.reports.views import panels_of, part_of
from differseg_med.transforms.grids import restore_grid


@dataclass(frozen=True)
class CaseResult:
    """What a run found out about a case.

    Args:
        case: its row of the cohort table.
        mask: ``(H, W, D)`` uint8 of 0 and 1 on `grid`.
        probability: ``(H, W, D)`` float on `grid`, before the threshold.
        grid: original grid of the image that was the reference.
        reference: modality whose grid that is.
        modalities: those that the case had.
        image: what the network saw, ``(C, h, w, d)`` on its own grid.
        notes: for the reader of the summary.
        channels: the modality of each channel of `image`, also of absent ones.
        agreement: of an ensemble, how much the masks of its networks overlap, see `mean_agreement`; else None.
        threshold: above which the probability is the mask, if that is known.
    """

    case: Case
    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    grid: Grid
    reference: str
    modalities: tuple[str, ...]
    image: MetaTensor
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    agreement: float | None = None
    threshold: float | None = None

    @property
    def is_image2d(self) -> bool:
        """Whether the reference is a PNG, JPEG or TIFF."""
        return is_image(self.case.images[self.reference])

    @cached_property
    def images2d(self) -> dict[str, NDArray[np.float32]]:
        """The 2-D images of the case, ``(H, W, C)`` in the size of the reference, by modality."""
        volumes = {name: restore_grid(load_volume(self.case.images[name]), self.grid) for name in self.modalities}
        return {name: volume[..., 0].permute(1, 2, 0).numpy() for name, volume in volumes.items()}

    @property
    def made_from(self) -> str:
        """Which modalities the mask was made from, and which the case has not, in words."""
        absent = [name for name in dict.fromkeys(self.channels) if name not in self.modalities]
        return f"made from {'+'.join(self.modalities)}" + (f" without {'+'.join(absent)}" if absent else "")

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in ml."""
        return float(self.mask.sum()) * self.grid.voxel_volume_mm3 / 1000


CaseWriter = Callable[[CaseResult, Path], Mapping[str, object]]
"""Writes something of a result into the case's folder; what it returns are columns of ``summary.csv``.

Raises `CaseError` if it cannot; the mask and what other writers make of the case stay. One whose files of all cases lie
in one folder may have ``reserve(case_ids)``, and one that cannot write every case ``foresee(cases, reference)``: both
are called before the first case."""


def write_mask(result: CaseResult, folder: Path) -> Mapping[str, object]:
    """Write ``mask.nii.gz``; of a picture ``mask.png`` and ``probability.png``, and its area in place of a volume."""
    if result.is_image2d:
        save_mask_png(result.mask[..., 0], folder / IMAGE2D_MASK)
        save_probability_png(result.probability[..., 0], folder / PROBABILITY_FILE)
        return {"volume_ml": "", "area_percent": f"{100 * result.mask.mean():.3f}"}
    like = nifti_header(result.case.images.get(result.reference))
    save_nifti(result.mask, result.grid.affine, folder / MASK, reference_header=like)
    return {}


def write_view(result: CaseResult, folder: Path) -> Mapping[str, object]:
    """Keep what ``report.html`` shows of the case."""
    if result.is_image2d:
        write_part(folder, {"picture": panels_of(result.images2d, result.mask[..., 0])})
        return {}
    image, affine = np.asarray(result.image), np.asarray(result.image.affine, dtype=np.float64)
    write_part(folder, part_of(image, affine, result.channels, result.mask, result.grid))
    return {}
