"""Where the foreground of a mask is, and which voxels of it hang together: one definition for the whole package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[Any]
Labels = NDArray[np.uint16] | NDArray[np.int32]
Indices = NDArray[np.float64]

CONNECTIVITY = 26
"""Voxels that touch by a face, an edge or a corner are one component; in 2-D the 8 pixels around."""

HOPS = {6: 1, 18: 2, 26: 3}
"""Axes along which two voxels of one component may differ at once, by number of neighbours."""


def check_connectivity(connectivity: int) -> int:
    """The connectivity, if there is one of this number of neighbours.

    Raises:
        ValueError: for another number than 6, 18 or 26.
    """
    if connectivity not in HOPS:
        raise ValueError(f"connectivity is the number of neighbours of a voxel, one of {list(HOPS)}: {connectivity!r}")
    return connectivity


def foreground_box(mask: Mask, margin: int | Sequence[int] = 0) -> tuple[slice, ...] | None:
    """The smallest box around the foreground of a mask, ``margin`` voxels wider on each side; None if it is empty.

    Args:
        mask: ``(H, W[, D])``; foreground is what is not 0.
        margin: of all axes, or of each. The box never begins before the array; slices may end behind it.
    """
    flat = np.logical_or.reduce(mask, axis=-1)  # one pass over the volume serves all axes but the last
    profiles = [flat.any(axis=tuple(a for a in range(flat.ndim) if a != axis)) for axis in range(flat.ndim)]
    used = [np.flatnonzero(profile) for profile in profiles]
    if not used[0].size:
        return None
    inside = mask[tuple(slice(int(u[0]), int(u[-1]) + 1) for u in used)]
    used.append(np.flatnonzero(np.any(inside, axis=tuple(range(flat.ndim)))))
    margins = [margin] * mask.ndim if isinstance(margin, int) else margin
    return tuple(slice(max(0, int(u[0]) - m), int(u[-1]) + 1 + m) for u, m in zip(used, margins))


def foreground_center(mask: Mask) -> Indices | None:
    """Mean index of the foreground of a mask along each axis, without a list of its voxels; None if it is empty."""
    box = foreground_box(mask)
    if box is None:
        return None
    others = [tuple(a for a in range(mask.ndim) if a != axis) for axis in range(mask.ndim)]
    counts = [np.count_nonzero(mask[box], axis=axes) for axes in others]
    return np.array([s.start + (np.arange(len(n)) * n).sum() / n.sum() for s, n in zip(box, counts)])


def joint_box(*masks: Mask) -> tuple[slice, ...] | None:
    """The smallest box with the foreground of every mask of one shape; None if all are empty."""
    boxes = [box for mask in masks if (box := foreground_box(mask)) is not None]
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes)) or None


def label_components(mask: Mask, connectivity: int = CONNECTIVITY) -> tuple[Labels, int]:
    """Number the connected components of a mask in the order of their first voxels.

    Args:
        mask: ``(H, W[, D])``; foreground is what is not 0. Crop it to its `foreground_box` first.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        ``(H, W[, D])`` with 0 for background and 1 to n, and n; two bytes a voxel unless there are too many for that.
    """
    hops = HOPS[check_connectivity(connectivity)]
    structure = ndimage.generate_binary_structure(mask.ndim, min(hops, mask.ndim))
    labels: Labels = np.empty(mask.shape, np.uint16)
    try:
        number = ndimage.label(mask, structure=structure, output=labels)
    except RuntimeError:  # SciPy's word for more components than numbers
        labels = np.empty(mask.shape, np.int32)
        number = ndimage.label(mask, structure=structure, output=labels)
    return labels, int(number)


def label_sizes(labels: Labels, number: int) -> NDArray[np.int64]:
    """Voxels of each label ``(number + 1,)``, background first; by plane, as a copy would take 8 bytes a voxel."""
    sizes = np.zeros(number + 1, dtype=np.int64)
    for plane in labels:
        sizes += np.bincount(plane.ravel(), minlength=number + 1)
    return sizes


def component_sizes(mask: Mask, connectivity: int = CONNECTIVITY) -> list[int]:
    """Voxels of each component of a mask ``(H, W[, D])``, the largest first."""
    box = foreground_box(mask)
    if box is None:
        return []
    return sorted(label_sizes(*label_components(mask[box], connectivity))[1:].tolist(), reverse=True)


def largest_component(mask: Mask, connectivity: int = CONNECTIVITY) -> NDArray[np.bool_]:
    """The largest component of a mask ``(H, W[, D])``; of several of one size the one that MONAI takes."""
    return _kept(mask, connectivity, lambda sizes: np.arange(len(sizes)) == np.argsort(sizes)[-1])


def large_components(mask: Mask, min_voxels: float, connectivity: int = CONNECTIVITY) -> NDArray[np.bool_]:
    """The components of a mask ``(H, W[, D])`` that have ``min_voxels`` or more."""
    return _kept(mask, connectivity, lambda sizes: sizes >= min_voxels)


def _kept(mask: Mask, connectivity: int, choose: Any) -> NDArray[np.bool_]:
    kept = np.zeros(mask.shape, dtype=np.bool_)
    box = foreground_box(mask)
    if box is not None:
        labels, number = label_components(mask[box], check_connectivity(connectivity))
        sizes = label_sizes(labels, number)
        sizes[0] = 0
        chosen = choose(sizes)
        chosen[0] = False
        kept[box] = chosen[labels]
    return kept
