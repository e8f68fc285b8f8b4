"""Image volumes as NIfTI files, read back before they get their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from differseg_med.atomic import replacing
from differseg_med.errors import CaseError
from differseg_med.geometry import FloatArray, Grid, almost_same_grid

SCANNER_CODE = 1
"""NIfTI code of a space that the scanner defined."""

_WHOLE = (np.uint8, np.int16, np.int32)


def save_volume(voxels: NDArray[Any], affine: FloatArray, path: str | Path) -> Path:
    """Write an image ``(H, W, D)`` or, several channels, ``(H, W, D, C)``; whole numbers in the smallest type for them.

    Raises:
        CaseError: if the file does not hold what was written.
    """
    path = Path(path)
    stored = np.ascontiguousarray(voxels, dtype=np.float32)
    if not (stored % 1).any():
        fitting = (t for t in _WHOLE if np.iinfo(t).min <= stored.min() and stored.max() <= np.iinfo(t).max)
        stored = stored.astype(next(fitting, np.float32))
    grid = Grid(stored.shape[:3], affine)
    with replacing(path, ".nii.gz") as temporary:
        nib.save(nifti_image(stored, affine), temporary)
        back: Any = nib.load(temporary)
        if not np.array_equal(np.asarray(back.dataobj), stored) or not almost_same_grid(
            Grid(grid.shape, back.affine), grid
        ):
            raise CaseError("the file does not hold what was written", file=path, remedy="Check the disk, try again.")
    return path


def nifti_image(voxels: NDArray[Any], affine: FloatArray, code: int = SCANNER_CODE) -> nib.Nifti1Image:
    """Voxels ``(H, W, D)`` or ``(H, W, D, C)`` as NIfTI whose qform and sform say the same, as far as a qform can.

    Args:
        voxels: stored in their own type.
        affine: 4 x 4, from voxel indices to mm, RAS.
        code: NIfTI code of the space.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    # A quaternion of three float32 loses precision near half a turn, where oblique LPS images are. Then only the sform
    # is right, and a qform that contradicts it would shift the mask in programs that prefer the qform.
    shape = voxels.shape[:3]
    if not almost_same_grid(Grid(shape, affine), Grid(shape, image.get_qform())):
        image.set_qform(None, 0)
    return image
