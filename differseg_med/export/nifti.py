"""Masks as NIfTI files that were read back before they got their name."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.export.atomic import replacing
from differseg_med.geometry import FloatArray, Grid, almost_same_grid, check_affine, same_grid

SCANNER_CODE = 1
"""NIfTI code of a space that the scanner defined."""


def save_mask(
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
    _check(mask, affine, path)
    image = _image(np.asarray(mask).astype(np.uint8), np.asarray(affine, dtype=np.float64), reference_header)
    try:
        with replacing(path, suffix) as temporary:
            nib.save(image, temporary)
            _verify(temporary, image, path)
    except OSError as error:
        raise CaseError(
            f"the mask could not be written: {error.strerror or type(error).__name__}",
            file=path,
            remedy="Check the free space and the permissions of the folder, then run the case again.",
        ) from error
    return path


def _check(mask: NDArray[np.uint8] | NDArray[np.bool_], affine: FloatArray, path: Path) -> None:
    array = np.asarray(mask)
    if array.ndim != 3:
        raise CaseError("the mask is not a volume", file=path, expected="three axes", found=f"shape {array.shape}")
    if not ((array == 0) | (array == 1)).all():
        raise CaseError("the mask is not binary", file=path, expected="0 and 1", found=np.unique(array)[:5].tolist())
    if problem := check_affine(affine):
        raise CaseError(f"the mask has no usable position in space: {problem}", file=path)


def _image(mask: NDArray[np.uint8], affine: FloatArray, reference: nib.Nifti1Header | None) -> nib.Nifti1Image:
    code = SCANNER_CODE
    if reference is not None:
        code = int(reference["sform_code"]) or int(reference["qform_code"]) or SCANNER_CODE
    image = nib.Nifti1Image(mask, affine)
    image.header["descrip"] = b"differseg_med"
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    # A quaternion of three float32 loses precision near half a turn, where oblique LPS images are. Then only the sform
    # is right, and a qform that contradicts it would shift the mask in programs that prefer the qform.
    if not almost_same_grid(Grid(mask.shape, affine), Grid(mask.shape, image.get_qform())):
        image.set_qform(None, 0)
    return image


def _verify(temporary: Path, image: nib.Nifti1Image, path: Path) -> None:
    """Compare the file on disk with the mask that should be in it."""
    written = np.asarray(image.dataobj)
    grid = Grid(written.shape, image.get_sform())
    read = nib.Nifti1Image.from_filename(temporary)
    voxels = np.asarray(read.dataobj)
    problem = None
    if voxels.dtype != np.uint8:
        problem = f"its voxels are {voxels.dtype} instead of uint8"
    elif not np.array_equal(voxels, written):
        problem = "its voxels differ"
    elif not same_grid(Grid(voxels.shape, read.affine), grid):
        problem = "its affine differs"
    elif int(read.header["qform_code"]) and not almost_same_grid(Grid(voxels.shape, read.get_qform()), grid):
        problem = "its qform and its sform differ"
    if problem:
        raise CaseError(
            f"the mask on disk is not the one that was written: {problem}", file=path, remedy="Check the disk."
        )
