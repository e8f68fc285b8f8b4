"""Distances between the boundaries of two masks in mm, each pair of boundaries searched once for all measures.

MONAI computes each measure from its own search; here HD, HD95 and ASSD share one, voxels that both boundaries have are
not searched at all, and surface Dice searches no farther than its tolerance. The definitions are MONAI's; memory
follows the boundary, not the volume.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from monai.metrics.utils import get_code_to_measure_table
from numpy.typing import NDArray
from scipy.spatial import KDTree

from differseg_med.geometry import BoolArray, FloatArray

Indices = NDArray[np.intp]

LEAF_SIZE = 64
"""Points per leaf of the search tree: as in MONAI, best for one query of many points."""

MANY_NEIGHBORS = 1000
"""Voxels within reach of the tolerance above which a tree is searched instead."""

ROUNDING = 1e-6
"""Relative slack of the tolerance of surface Dice: 3 steps of 0.1 mm are within 0.3 mm."""


def surface_measures(prediction: BoolArray, reference: BoolArray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    """HD, HD95 (in both definitions) and ASSD in mm of two masks with foreground.

    Args:
        prediction: ``(H, W[, D])``, with a border of background.
        reference: same shape.
        spacing_mm: size of a voxel along each axis.
    """
    edges = _boundary(prediction), _boundary(reference)
    points = [_points(np.flatnonzero(edge), edge.shape, spacing_mm) for edge in edges]
    both = np.flatnonzero(edges[0] & edges[1])
    found = []
    for edge, other, targets in zip(edges, edges[::-1], points[::-1]):
        own = _points(np.flatnonzero(edge & ~other), edge.shape, spacing_mm)
        found.append(np.concatenate([np.zeros(both.size), _search(own, targets)]))  # common voxels are at 0 mm
    return {
        "hd95_pooled_mm": float(np.percentile(np.concatenate(found), 95)),
        "hd95_mm": float(max(np.percentile(distances, 95) for distances in found)),
        "hd_mm": float(max(distances.max() for distances in found)),
        "assd_mm": float(sum(distances.sum() for distances in found) / sum(distances.size for distances in found)),
    }


def surface_dice(
    prediction: BoolArray, reference: BoolArray, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> float:
    """Share of both boundaries, by area, that lies within ``tolerance_mm`` of the other (Nikolov et al. 2021).

    Boundary elements sit on the corners between voxels; the area of each comes from the pattern of its 8 (2-D: 4)
    voxels. The same as MONAI's with ``use_subvoxels=True`` and DeepMind's surface-distance.

    Args:
        prediction: ``(H, W[, D])``, with a border of background.
        reference: same shape.
        spacing_mm: size of a voxel along each axis.
        tolerance_mm: distance that still counts as the same boundary.
    """
    table = _areas(spacing_mm)
    edges, where, areas = [], [], []
    for mask in (prediction, reference):
        codes = _corner_codes(mask)
        edges.append((codes > 0) & (codes < len(table) - 1))
        where.append(np.flatnonzero(edges[-1]))
        areas.append(table[codes.ravel()[where[-1]]])
    correct = 0.0
    for index, area, other in zip(where, areas, edges[::-1]):
        common = other.ravel()[index]
        near = _near(index[~common], other, spacing_mm, tolerance_mm * (1 + ROUNDING))
        correct += float(area[common].sum() + area[~common][near].sum())
    return correct / float(areas[0].sum() + areas[1].sum())


def _boundary(mask: BoolArray) -> BoolArray:
    """Foreground voxels with a background neighbour (6 neighbours, in 2-D 4); ``mask`` has a border of background."""
    core = tuple(slice(1, -1) for _ in range(mask.ndim))
    inner = mask[core].copy()
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            inner &= mask[(*core[:axis], side, *core[axis + 1 :])]
    boundary = mask.copy()
    boundary[core] &= ~inner
    return boundary


def _search(points: FloatArray, targets: FloatArray, limit: float = np.inf) -> FloatArray:
    """Distance of each of ``points`` (N, ndim) from the nearest of ``targets``; infinite beyond ``limit``."""
    if not len(points):
        return np.zeros(0)
    # Boundaries come in raster order: a tree that is not balanced takes half the time to build and is searched as fast.
    tree = KDTree(targets, leafsize=LEAF_SIZE, balanced_tree=False, compact_nodes=False)
    distances: FloatArray = tree.query(points, distance_upper_bound=limit)[0]
    return distances


def _near(index: Indices, targets: BoolArray, spacing_mm: tuple[float, ...], limit: float) -> BoolArray:
    """Is a true voxel of ``targets`` within ``limit`` mm of each of the voxels with flat index ``index``, ``(N,)``?

    Few neighbours are looked at one after the other, nearest first; for many the tree is faster.
    """
    reach = [int(limit // mm) for mm in spacing_mm]
    if np.prod([2.0 * r + 1 for r in reach]) > MANY_NEIGHBORS:
        found = _points(np.flatnonzero(targets), targets.shape, spacing_mm)
        return np.isfinite(_search(_points(index, targets.shape, spacing_mm), found, limit))
    steps = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
    shifts = np.stack(steps, axis=-1).reshape(-1, len(reach))
    lengths = np.linalg.norm(shifts * np.asarray(spacing_mm), axis=1)
    order = [int(n) for n in np.argsort(lengths) if lengths[n] <= limit]
    padded = np.pad(targets, [(r, r) for r in reach])
    strides = np.array(padded.strides)  # one byte per voxel: also the steps through the flat array
    flat, where = padded.ravel(), (np.stack(np.unravel_index(index, targets.shape), axis=-1) + reach) @ strides
    near = np.zeros(len(where), dtype=np.bool_)
    left = np.arange(len(where))
    for shift in shifts[order] @ strides:
        hit = flat[where[left] + shift]
        near[left[hit]] = True
        left = left[~hit]
    return near


def _points(index: Indices, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> FloatArray:
    """Positions (N, ndim) in mm of the voxels with flat index ``index``. Several times faster than `numpy.argwhere`."""
    return np.stack([axis * mm for axis, mm in zip(np.unravel_index(index, shape), spacing_mm)], axis=-1)


def _corner_codes(mask: BoolArray) -> NDArray[np.uint8]:
    """For each corner between voxels the pattern of the voxels around it: one bit each, as in MONAI's table."""
    bits = 2**mask.ndim
    codes = np.zeros([n - 1 for n in mask.shape], dtype=np.uint8)
    for number, offset in enumerate(product((0, 1), repeat=mask.ndim)):
        window = mask[tuple(slice(o, n - 1 + o) for o, n in zip(offset, mask.shape))]
        codes |= window.view(np.uint8) << np.uint8(bits - 1 - number)
    return codes


@lru_cache(maxsize=64)
def _areas(spacing_mm: tuple[float, ...]) -> NDArray[Any]:
    """Area in mm2 (2-D: length in mm) of the boundary in each pattern of voxels."""
    table, _ = get_code_to_measure_table(spacing_mm)
    areas: NDArray[Any] = table.double().numpy()
    return areas
