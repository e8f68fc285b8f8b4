"""A mask and what it belongs to: what every writer of a format is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from differseg_med.export.segment import SegmentInfo
from differseg_med.geometry import ALMOST_SAME_VOXELS, SAME_GRID_MM, Grid, grid_distance_mm
from differseg_med.io.headers import nifti_header
from differseg_med.io.nifti_header import SLICER, NiftiHeader

Notes = list[str]


@dataclass(frozen=True)
class Segmented:
    """A mask and what it belongs to.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on ``grid``.
        grid: of the reference image.
        segment: what the mask shows.
        images: cells of the cohort table by modality, the reference among them.
        reference: modality whose grid that is.
        case_id: for titles and names.
        probability: ``(H, W, D)`` on ``grid``, if there is one.
        kinds: kind of image of each modality, as far as it is known.
        subject: its name in BIDS, where ids of several cases would give one name.
        threshold: above which the probability is the mask, before components are judged, if that is known.
    """

    mask: NDArray[np.uint8]
    grid: Grid
    segment: SegmentInfo
    images: Mapping[str, str | Path]
    reference: str
    case_id: str = ""
    probability: NDArray[np.float32] | None = field(default=None, repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    threshold: float | None = None

    @property
    def nifti_header(self) -> NiftiHeader | None:
        """The header of the reference, if that is a NIfTI."""
        return nifti_header(self.images.get(self.reference))

    def slicer_notes(self) -> Notes:
        """What to say of a file that has one transform, beside a NIfTI image that programs put in different places."""
        header = self.nifti_header
        if header is None or header.itk_affine is None:
            return []
        distance = grid_distance_mm(self.grid, Grid(header.shape, header.itk_affine))
        if distance <= max(SAME_GRID_MM, ALMOST_SAME_VOXELS * min(self.grid.spacing_mm)):
            return []
        return [f"{SLICER} put the NIfTI image up to {distance:.1f} mm from this file: open mask.nii.gz there"]
