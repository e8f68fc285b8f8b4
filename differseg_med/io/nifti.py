"""Image volumes as NIfTI files, read back before they get their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from differseg_med.atomic import replacing
from differseg_med.errors import CaseError
from differseg_med.export.nifti import nifti_image
from differseg_med.geometry import FloatArray, Grid, almost_same_grid

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
    grid = Grid(stored.shape[:3], affine)
    with replacing(path, ".nii.gz") as temporary:
        nib.save(nifti_image(stored, affine), temporary)
        back: Any = nib.load(temporary)
        if not np.array_equal(np.asarray(back.dataobj), stored) or not almost_same_grid(
            Grid(grid.shape, back.affine), grid
        ):
            raise CaseError("the file does not hold what was written", file=path, remedy="Check the disk, try again.")
    return path
