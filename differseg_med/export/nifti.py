"""Masks as NIfTI files that were read back before they got their name."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from differseg_med.atomic import exporting
from differseg_med.errors import CaseError
from differseg_med.export.checks import check_read_back, checked, differs
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.geometry import FloatArray, Grid, almost_same_grid
from differseg_med.io.nifti import SCANNER_CODE, nifti_image


def save_nifti(
    mask: NDArray[np.uint8] | NDArray[np.bool_],
    affine: FloatArray,
    path: str | Path,
    *,
    reference_header: nib.Nifti1Header | None = None,
) -> Path:
    """Save a binary mask, read it back, compare, and only then give it its name.

    The header holds the grid and the word ``differseg_med``; nothing of the reference's free text is copied.

    Args:
        mask: ``(H, W, D)`` of 0 and 1, on the grid of ``affine``.
        affine: 4 x 4, from voxel indices to mm, RAS.
        path: the file to write, ``.nii.gz`` or ``.nii``; an older file stays until the new one has been checked.
        reference_header: header of the image that the mask belongs to. Only the code of its space (scanner, aligned,
            standard) is taken over.

    Returns:
        The path of the file.

    Raises:
        CaseError: if the mask or the affine cannot be stored faithfully, or the file does not hold what was written.
    """
    path = Path(path)
    suffix = next((ending for ending in (".nii.gz", ".nii") if path.name.endswith(ending)), None)
    if suffix is None:
        raise CaseError("a NIfTI mask needs another file name", file=path, expected=".nii.gz or .nii", found=path.name)
    voxels, grid = checked(mask, affine, path)
    code = SCANNER_CODE
    if reference_header is not None:
        code = int(reference_header["sform_code"]) or int(reference_header["qform_code"]) or SCANNER_CODE
    image = nifti_image(voxels, grid.affine, code)
    image.header["descrip"] = b"differseg_med"
    with exporting(path, suffix) as temporary:
        nib.save(image, temporary)
        _verify(temporary, voxels, grid, path)
    return path


def _verify(temporary: Path, mask: NDArray[np.uint8], grid: Grid, path: Path) -> None:
    """Compare the file on disk with the mask that should be in it."""
    read = nib.Nifti1Image.from_filename(temporary)
    voxels = np.asarray(read.dataobj)
    check_read_back(voxels, Grid(voxels.shape, read.affine), mask, grid, path)
    if int(read.header["qform_code"]) and not almost_same_grid(Grid(voxels.shape, read.get_qform()), grid):
        raise differs("its qform and its sform differ", path)


def write_nifti(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``nifti``, see `save_nifti`."""
    save_nifti(segmented.mask, segmented.grid.affine, path)
    return []
