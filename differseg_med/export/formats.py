"""A mask in every format that was asked for, by the format's name or by the ending of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.export.registry import FORMATS
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.geometry import Grid, describe, differences, lattice_map, overlap_fraction
from differseg_med.io.volumes import file_grid
from differseg_med.transforms.restoring import resample_mask


def save_mask(
    mask: NDArray[Any], reference: str | Path | Grid, path: str | Path, *, segment: SegmentInfo | None = None
) -> Notes:
    """Save a mask in the format that the file's ending names: ``.nii.gz``, ``.nii``, ``.seg.nrrd`` or ``.dcm``.

    Whatever the format, the file gets its name after it was read back and found to hold the same voxels in the same
    places.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on the grid of the reference.
        reference: the image that the mask belongs to, as a cell of a cohort table (a file, or ``FOLDER::UID``). Its
            grid alone is enough for NIfTI and ``.seg.nrrd``; a DICOM SEG needs the DICOM images.
        path: the file to write.
        segment: what the mask shows; a DICOM SEG needs its codes.

    Returns:
        Notes for the user.

    Raises:
        CaseError: if the mask cannot be stored faithfully, something needed is missing, or the ending is unknown.
    """
    path = Path(path)
    known = {".nii.gz": "nifti", ".nii": "nifti", ".seg.nrrd": "seg.nrrd", ".dcm": "dicom-seg"}
    name = next((name for ending, name in known.items() if path.name.endswith(ending)), None)
    if name is None:
        raise CaseError("unknown ending of a mask", file=path, expected=f"one of {', '.join(known)}", found=path.name)
    grid = reference if isinstance(reference, Grid) else file_grid(reference)
    if np.shape(mask) != grid.shape:
        raise CaseError("the mask is not on its reference", file=path, expected=grid.shape, found=np.shape(mask))
    images = {} if isinstance(reference, Grid) else {"reference": reference}
    named = segment or SegmentInfo("segmentation")
    return FORMATS[name].write(Segmented(mask, grid, named, images, "reference"), path)


def onto_reference(
    mask: NDArray[np.uint8], grid: Grid, reference: Grid, *, resample: bool = False, file: Path | None = None
) -> tuple[NDArray[np.uint8], Notes]:
    """Bring a mask onto the grid of its reference image.

    A mask that is stored along other axes, or is a part of the reference's grid, is copied voxel by voxel, which
    changes nothing. Other voxels need the user's consent: the mask is then resampled to the nearest neighbour, and a
    note tells its volume before and after.

    Raises:
        CaseError: if the mask is elsewhere, or on other voxels without ``resample``.
    """
    whole = lattice_map(grid, reference)
    if whole is not None:
        found = apply_affine(whole, np.argwhere(mask))
        if ((found >= 0) & (found < reference.shape)).all():
            placed = np.zeros(reference.shape, dtype=np.uint8)
            placed[tuple(found.T)] = 1
            return placed, []
    if not overlap_fraction(grid, reference):
        raise CaseError(
            "the mask is not where the reference image is", file=file, remedy="Check that they belong together."
        )
    if not resample:
        raise CaseError(
            "the mask is on other voxels than the reference image",
            file=file,
            expected=describe(reference),
            found=differences(grid, reference),
            remedy="Name the image that it was drawn on, or allow resampling (--resample).",
        )
    moved = resample_mask(mask, grid, reference)
    before, after = (float(m.sum()) * g.voxel_volume_mm3 / 1000 for m, g in ((mask, grid), (moved, reference)))
    volumes = f"{before:.3f} ml before, {after:.3f} ml after"
    return moved, [f"resampled (nearest neighbour) from {describe(grid)} to {describe(reference)}: {volumes}"]
