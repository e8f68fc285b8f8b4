"""A slice of a mask as closed outlines; a hole is joined to its outline by a channel without width (keyhole)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import find_contours

from differseg_med.geometry import FloatArray

BETWEEN = 0.25
"""Where channels run, in rows from a row of centers: no center lies on them, so that none is in doubt."""


def outlines(frame: NDArray[np.uint8]) -> list[FloatArray]:
    """Outlines of a slice, halfway between the centers inside and outside.

    PS3.3 C.8.8.6.3 has two ways to say that a region has a hole: the newer one (CLOSEDPLANAR_XOR) few programs know;
    the older joins the inner outline to the outer one by an arbitrarily narrow channel, which every program can fill.

    Args:
        frame: ``(rows, columns)`` of 0 and 1.

    Returns:
        Closed polygons ``(N, 2)`` of row and column, without the first point again at the end. Filled by the rule that
        a pixel is inside if its center is, they give the slice again.
    """
    found = find_contours(np.pad(frame, 1).astype(np.float64), 0.5, fully_connected="low")
    rings = [ring[:-1] - 1 for ring in found]  # closed, as the padding is 0
    outer = [ring for ring in rings if not _is_hole(ring)]
    holes = [ring for ring in rings if _is_hole(ring)]
    while holes:
        hole = holes.pop()
        start, row = _right_end(hole)
        target, index, column = min(
            ((other, *crossing) for other in [*outer, *holes] for crossing in _crossings(other, row)),
            key=lambda one: one[2] if one[2] > start[1] else np.inf,
        )
        joined = _join(target, index, np.array((row, column)), hole, start)
        group = outer if any(ring is target for ring in outer) else holes
        group[next(i for i, ring in enumerate(group) if ring is target)] = joined
    return outer


def _is_hole(ring: FloatArray) -> bool:
    """Whether what is inside is background: scikit-image runs round those the other way."""
    rows, columns = ring.T
    return bool(np.sum(rows * np.roll(columns, -1) - np.roll(rows, -1) * columns) > 0)


def _crossings(ring: FloatArray, row: float) -> list[tuple[int, float]]:
    """Edges of a ring that cross a row, by their first point, and the column where they do."""
    following = np.roll(ring, -1, axis=0)
    (edges,) = np.nonzero((ring[:, 0] - row) * (following[:, 0] - row) < 0)
    shares = (row - ring[edges, 0]) / (following[edges, 0] - ring[edges, 0])
    columns = ring[edges, 1] + shares * (following[edges, 1] - ring[edges, 1])
    return list(zip(edges.tolist(), columns.tolist(), strict=True))


def _right_end(hole: FloatArray) -> tuple[FloatArray, float]:
    """Where a channel to the right leaves a hole, and its row."""
    row = float(hole[np.argmax(hole[:, 1]), 0]) + BETWEEN
    column = max(column for _, column in _crossings(hole, row))
    return np.array((row, column)), row


def _join(ring: FloatArray, index: int, place: FloatArray, hole: FloatArray, start: FloatArray) -> FloatArray:
    """A ring that leaves itself at ``place``, after point ``index``, runs round a hole from ``start``, and returns."""
    edge = next(edge for edge, column in _crossings(hole, start[0]) if column == start[1])
    round_it = np.roll(hole, -(edge + 1), axis=0)
    return np.concatenate([ring[: index + 1], [place, start], round_it, [start, place], ring[index + 1 :]])
