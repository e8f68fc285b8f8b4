"""What every format of a mask has to hold, before it is written and after it was read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.geometry import FloatArray, Grid, check_affine, reordered, same_grid


def checked(mask: NDArray[Any], affine: FloatArray, path: Path) -> tuple[NDArray[np.uint8], Grid]:
    """The mask as uint8 and its grid.

    Raises:
        CaseError: if the mask is not a volume of 0 and 1, or its affine (RAS) is not that of a grid.
    """
    array = np.asarray(mask)
    if array.ndim != 3:
        raise CaseError("the mask is not a volume", file=path, expected="three axes", found=f"shape {array.shape}")
    if not ((array == 0) | (array == 1)).all():
        raise CaseError("the mask is not binary", file=path, expected="0 and 1", found=np.unique(array)[:5].tolist())
    if problem := check_affine(affine):
        raise CaseError(f"the mask has no usable position in space: {problem}", file=path)
    return array.astype(np.uint8), Grid(array.shape, affine)


def check_read_back(voxels: NDArray[Any], grid: Grid, written: NDArray[Any], expected: Grid, path: Path) -> None:
    """Compare what a file holds with what was to be written, voxel by voxel at the same place in the patient.

    Args:
        voxels: as read from the file, on ``grid``; its axes may be stored in another order.
        grid: as read from the file.
        written: what should be in it, on ``expected``.
        expected: the grid that it should have.
        path: the file's name for the message.

    Raises:
        CaseError: if anything differs.
    """
    found, place = reordered(voxels, grid, expected)
    if not same_grid(place, expected):
        raise differs("its affine differs", path)
    if found.dtype != written.dtype:
        raise differs(f"its voxels are {found.dtype} instead of {written.dtype}", path)
    if not np.array_equal(found, written):
        raise differs("its voxels differ", path)


def differs(how: str, path: Path) -> CaseError:
    """The error that a file is not what was written."""
    return CaseError(f"the mask on disk is not the one that was written: {how}", file=path, remedy="Check the disk.")
