"""Image volumes as NIfTI files, read back before they get their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.export.atomic import replacing
from differseg_med.geometry import FloatArray, Grid, almost_same_grid

SCANNER_CODE = 1
WHOLE = (np.uint8, np.int16, np.int32)


def save_volume(voxels: NDArray[Any], affine: FloatArray, path: str | Path) -> Path:
    """Write an image ``(H, W, D)`` or, several channels, ``(H, W, D, C)``; whole numbers in the smallest type for them.

    Raises:
        CaseError: if the file does not hold what was written.
    """
    path = Path(path)
    stored = np.ascontiguousarray(voxels, dtype=np.float32)
    if not (stored % 1).any():
        fitting = (t for t in WHOLE if np.iinfo(t).min <= stored.min() and stored.max() <= np.iinfo(t).max)
        stored = stored.astype(next(fitting, np.float32))
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, SCANNER_CODE)
    image.set_qform(affine, SCANNER_CODE)
    grid = Grid(stored.shape[:3], affine)
    if not almost_same_grid(grid, Grid(grid.shape, image.get_qform())):
        image.set_qform(None, 0)  # a quaternion of three float32 cannot state every rotation
    with replacing(path, ".nii.gz") as temporary:
        nib.save(image, temporary)
        back: Any = nib.load(temporary)
        if not np.array_equal(np.asarray(back.dataobj), stored) or not almost_same_grid(
            Grid(grid.shape, back.affine), grid
        ):
            raise CaseError("the file does not hold what was written", file=path, remedy="Check the disk, try again.")
    return path
