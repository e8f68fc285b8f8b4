"""Longest diameters of a mask, between the faces of its outermost voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from differseg_med.geometry import FloatArray

_AT_ONCE = 1024
"""Points whose distances to all others are held in memory."""


def longest_mm(mask: NDArray[Any], affine: FloatArray) -> float:
    """Longest distance within a mask, in mm; 0 if it is empty.

    The ends are halfway between voxels inside and outside, where marching cubes put the mesh: in three dimensions it is
    the Maximum 3D Diameter of IBSI (L0JK). Of a single voxel it is the longest of its sides.

    Args:
        mask: ``(H, W, D)``, or ``(H, W)`` for a diameter within a plane.
        affine: from indices of voxels to mm, with one row and column more than the mask has axes.
    """
    faces = _faces(np.asarray(mask) > 0)
    if not len(faces):
        return 0.0
    points = apply_affine(affine, faces)
    hull = points[ConvexHull(points).vertices]  # the ends of the longest distance are corners of it
    return max(float(cdist(hull[at : at + _AT_ONCE], hull).max()) for at in range(0, len(hull), _AT_ONCE))


def longest_in_planes_mm(frames: Sequence[NDArray[Any]], spacing_mm: tuple[float, float]) -> tuple[float, int]:
    """Longest distance within one of several planes, in mm, and the number of that plane.

    Args:
        frames: each ``(rows, columns)``.
        spacing_mm: distance of neighbouring rows, and of neighbouring columns.

    Returns:
        ``(0.0, 0)`` if all are empty.
    """
    affine = np.diag([*spacing_mm, 1.0])
    lengths = [longest_mm(frame, affine) for frame in frames]
    best = int(np.argmax(lengths))
    return lengths[best], best


def _faces(inside: NDArray[np.bool_]) -> FloatArray:
    """Points between a voxel inside and its neighbour outside, along each axis, in indices of voxels ``(N, axes)``."""
    found = []
    for axis in range(inside.ndim):
        padded = np.pad(inside, [(1, 1) if other == axis else (0, 0) for other in range(inside.ndim)])
        edges = np.argwhere(np.diff(padded, axis=axis)).astype(np.float64)
        edges[:, axis] -= 0.5
        found.append(edges)
    return np.concatenate(found)
