"""A mask in every format that was asked for, by the format's name or by the ending of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.export import nifti
from differseg_med.export.bids import save_bids
from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.scene import save_scene
from differseg_med.export.seg_nrrd import save_nrrd_volume, save_seg_nrrd
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.source import read_source
from differseg_med.geometry import Grid, describe, differences, lattice_map, overlap_fraction
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.volumes import file_grid, load_volume
from differseg_med.transforms.grids import grid_of
from differseg_med.transforms.restoring import resample_mask

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
    """

    mask: NDArray[np.uint8]
    grid: Grid
    segment: SegmentInfo
    images: Mapping[str, str | Path]
    reference: str
    case_id: str = ""
    probability: NDArray[np.float32] | None = field(default=None, repr=False)


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


def _nifti(segmented: Segmented, path: Path) -> Notes:
    nifti.save_nifti(segmented.mask, segmented.grid.affine, path)
    return []


def _seg_nrrd(segmented: Segmented, path: Path) -> Notes:
    save_seg_nrrd(segmented.mask, segmented.grid.affine, path, segmented.segment)
    return []


def _dicom_seg(segmented: Segmented, path: Path) -> Notes:
    if segmented.reference not in segmented.images:
        raise CaseError("a DICOM SEG needs the DICOM series that the mask was drawn on", file=path)
    source = read_source(segmented.images[segmented.reference])
    return save_dicom_seg(segmented.mask, segmented.grid.affine, source, path, segmented.segment)


def _probability(segmented: Segmented, path: Path) -> Notes:
    if segmented.probability is None:
        raise CaseError("there is no probability to write", file=path, remedy="Only a prediction has one.")
    save_nrrd_volume(segmented.probability, segmented.grid.affine, path)
    return []


def _scene(segmented: Segmented, path: Path) -> Notes:
    volumes = {name: load_volume(cell) for name, cell in segmented.images.items()}
    arrays = {name: (volume[0].numpy(), grid_of(volume).affine) for name, volume in volumes.items()}
    save_scene(arrays, segmented.reference, segmented.mask, segmented.grid.affine, path, segmented.segment)
    return []


def _bids(segmented: Segmented, path: Path) -> Notes:
    reference = split_cell(segmented.images[segmented.reference])[0]
    save_bids(segmented.mask, segmented.grid.affine, path, reference, segmented.case_id, segmented.segment)
    return []


@dataclass(frozen=True)
class Format:
    """A format of a mask.

    Args:
        file: what it is called in the case's folder.
        write: writes it; returns notes for the user.
    """

    file: str
    write: Callable[[Segmented, Path], Notes]


FORMATS = {
    "nifti": Format("mask.nii.gz", _nifti),
    "seg.nrrd": Format("mask.seg.nrrd", _seg_nrrd),
    "dicom-seg": Format("mask.dcm", _dicom_seg),
    "probability": Format("probability.nrrd", _probability),
    "scene": Format("scene", _scene),
    "bids": Format("derivatives", _bids),
}
"""Formats by name."""
