"""Trilinear resampling slab by slab, so that it needs no memory beside the result."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SLAB_VOXELS = 1 << 22
"""Voxels of the result that are made at once."""

ALIGNED = 1e-3
"""Axes are parallel if following one to its end moves the others by no more than so many voxels."""


class _Taps(NamedTuple):
    """Where the values along one axis come from: two neighbours, and the share of the second."""

    before: Tensor
    after: Tensor
    share: Tensor


def resample_linear(volume: Tensor, to_source: NDArray[np.float64], shape: tuple[int, ...]) -> Tensor:
    """Resample a volume onto another grid; beyond its outer voxels their values go on.

    Args:
        volume: ``(h, w, d)``, float.
        to_source: 4 x 4, from voxels of the result to voxels of the volume.
        shape: ``(H, W, D)`` of the result.

    Returns:
        ``(H, W, D)``; the volume itself if the grids are the same.
    """
    if tuple(volume.shape) == tuple(shape) and np.allclose(to_source, np.eye(4), rtol=0, atol=ALIGNED / max(shape)):
        return volume
    out = torch.empty(shape, dtype=volume.dtype)
    rows = max(SLAB_VOXELS // max(shape[1] * shape[2], 1), 1)
    axes = _parallel(to_source, shape)
    turned = volume if axes is None else volume.permute(axes)
    taps = [_taps(to_source, axes, axis, turned.shape[axis], shape[axis]) for axis in range(3)] if axes else []
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        if taps:
            part = _along(turned, 0, _Taps(*(tap[start:stop] for tap in taps[0])))
            out[start:stop] = _along(_along(part, 1, taps[1]), 2, taps[2])
        else:
            out[start:stop] = _sampled(volume, to_source, (start, stop), shape)
    return out


def _parallel(to_source: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """For each axis of the result the axis of the volume that is parallel to it; None if one has none."""
    reach = np.abs(to_source[:3, :3]) * (np.maximum(np.array(shape), 2) - 1)
    axes = tuple(int(a) for a in reach.argmax(axis=0))
    if sorted(axes) != [0, 1, 2]:
        return None
    reach[list(axes), range(3)] = 0
    return axes if reach.sum(axis=1).max() <= ALIGNED else None


def _taps(to_source: NDArray[np.float64], axes: tuple[int, ...], axis: int, size: int, count: int) -> _Taps:
    source = axes[axis]
    position = to_source[source, axis] * np.arange(count) + to_source[source, 3]
    position = np.clip(position, 0, size - 1)
    before = np.floor(position).astype(np.int64)
    share = torch.from_numpy((position - before).astype(np.float32))
    return _Taps(torch.from_numpy(before), torch.from_numpy(np.minimum(before + 1, size - 1)), share)


def _along(volume: Tensor, axis: int, taps: _Taps) -> Tensor:
    if not bool(taps.share.any()):  # 0 times NaN is NaN
        return volume.index_select(axis, taps.before)
    share = taps.share.reshape([-1 if a == axis else 1 for a in range(3)]).to(volume.dtype)
    return volume.index_select(axis, taps.before).lerp_(volume.index_select(axis, taps.after), share)


def _sampled(volume: Tensor, to_source: NDArray[np.float64], rows: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
    """Rows of the result where the grids are turned against each other."""
    h, w, d = (torch.arange(*span, dtype=torch.float64) for span in (rows, (0, shape[1]), (0, shape[2])))
    places = []
    for row, size in zip(to_source[2::-1], tuple(volume.shape)[::-1]):  # grid_sample names the last axis first
        position = row[0] * h[:, None, None] + row[1] * w[None, :, None] + row[2] * d[None, None, :] + row[3]
        places.append(((2 * position + 1) / size - 1).float())
    grid = torch.stack(places, dim=-1)[None]
    return functional.grid_sample(volume[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
