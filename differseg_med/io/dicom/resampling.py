"""Tilted or unevenly spaced slices on a regular grid, on request only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.io.dicom.stacking import Stack, usual_distance


def resample_stack(data: NDArray[np.float32], stack: Stack) -> tuple[NDArray[np.float32], Grid, str]:
    """Interpolate slices linearly to a grid of right angles and even spacing.

    Args:
        data: ``(i, j, k)``, slices in the order of the stack.
        stack: where they are.

    Returns:
        The volume, its grid, and a note for the report. Voxels that no slice reaches get the smallest value.

    Raises:
        CaseError: if slices are missing: what lies between is unknown.
    """
    if stack.missing:
        raise CaseError("; ".join(stack.problems))
    # Where each slice begins, in columns and rows of the first one.
    in_plane = np.linalg.pinv(stack.affine[:3, :2])
    corners = (stack.places - stack.places[0]) @ in_plane.T
    low = np.floor(corners.min(axis=0)).astype(int)
    high = np.ceil(corners.max(axis=0)).astype(int)
    shape = (data.shape[0] + high[0] - low[0], data.shape[1] + high[1] - low[1])
    fill = float(data.min())
    moved = np.full((*shape, data.shape[2]), fill, dtype=np.float32)
    for k, corner in enumerate(corners):
        columns, rows = (np.arange(n) + start - offset for n, start, offset in zip(shape, low, corner))
        at = np.meshgrid(columns, rows, indexing="ij")
        moved[:, :, k] = ndimage.map_coordinates(data[:, :, k], at, order=1, cval=fill)
    depth = stack.positions_mm
    step = usual_distance(depth)
    count = int(np.floor((depth[-1] - depth[0]) / step + 1e-6)) + 1
    wanted = depth[0] + step * np.arange(count)
    above = np.clip(np.searchsorted(depth, wanted), 1, len(depth) - 1)
    share = ((wanted - depth[above - 1]) / (depth[above] - depth[above - 1])).astype(np.float32)
    regular = moved[:, :, above - 1] * (1 - share) + moved[:, :, above] * share
    affine = np.array(stack.affine)
    affine[:3, 3] = affine[:3, :2] @ low + affine[:3, 3]
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal *= np.sign(normal @ affine[:3, 2])  # a cross product knows nothing of the way from slice to slice
    affine[:3, 2] = normal / np.linalg.norm(normal) * step
    return regular, Grid(regular.shape, affine), f"resampled as asked: {'; '.join(stack.problems)}"
