"""How far must one image be moved to look most like another, whatever the two scanners measure?

Two things are compared at every shift: how well the grey values of one image tell those of the other (mutual
information; sees areas), and whether their edges run the same way (normalized gradients; sees skin, bones and vessels).
Each alone misses a shift now and then that the other finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from differseg_med.geometry import FloatArray, Grid
from differseg_med.io.itk import as_voxels, empty_image

STEP_MM = 2.5
"""Distance between compared points, and between the shifts of the fine search."""

REACHES = (6, 5, 4)
"""How far to search, in steps: the farthest that leaves `MIN_POINTS` to compare."""

COARSE = 2
"""Steps between the shifts of the first search; the second looks at every step around the best of the first."""

MIN_POINTS = 1000
"""Fewest points from which a comparison is credible."""

MAX_POINTS = 20_000
"""Most points that are compared, evenly drawn: more take time and change nothing."""

MAX_STEPS = 128
"""Largest compared box along each axis: 32 cm in the middle of what both images show."""

MIN_INFORMATION = 0.01
"""Normalized mutual information below which two images tell nothing of each other; noise has a tenth of it."""

LIMIT_MM = 5.0
"""Shift along an axis from which images are not registered. PET and CT of one examination differ by up to 5 mm where
nothing went wrong: it cannot be lower, and a mistake of twice as much is seen even if they differ the other way."""

BINS = 16
EDGE_SIGMA_MM = 2.0
"""Smoothing before edges are looked for; PET has no finer ones."""

FLAT = 0.6
"""Share of voxels whose gradient counts as noise."""

Similarity = Callable[[int], float]
"""Likeness of the two images at a shift, given as the step in flat index."""


@dataclass(frozen=True)
class Alignment:
    """Where an image looks most like another.

    Args:
        shift_mm: RAS, how far the second image has to be moved to get there.
        here: normalized mutual information (0: none) where the headers put the images.
        there: the same after the shift.
        edges_here: share (0..1) of one image's edges that run along edges of the other, in place; chance gives a third.
        edges_there: the same after the shift.
        points: number of compared points.
    """

    shift_mm: tuple[float, float, float]
    here: float
    there: float
    edges_here: float
    edges_there: float
    points: int

    @property
    def distance_mm(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self.shift_mm))

    @property
    def off(self) -> bool:
        """Whether the images are not registered."""
        return max(map(abs, self.shift_mm)) >= LIMIT_MM

    def describe(self) -> str:
        """The figures in words."""
        right, front, up = (round(mm) for mm in self.shift_mm)
        return (
            f"most similar when moved by {self.distance_mm:.0f} mm "
            f"({right:+d} right, {front:+d} front, {up:+d} up), with normalized mutual information "
            f"{self.there:.3f} instead of {self.here:.3f} and {self.edges_there:.0%} of edges in common "
            f"instead of {self.edges_here:.0%}"
        )


def measure_alignment(a: sitk.Image, b: sitk.Image) -> Alignment | None:
    """Search the shift of ``b``, up to 15 mm along each axis, at which two images look most alike.

    The image with the larger voxels stays and the other is sampled at its place, which blurs least.

    Args:
        a: 3-D image.
        b: 3-D image in the same space, on any grid.

    Returns:
        The shift with figures; None if the images share too little to tell.
    """
    if np.prod(a.GetSpacing()) >= np.prod(b.GetSpacing()):
        return _most_alike(a, b)
    found = _most_alike(b, a)
    if found is None:
        return None
    right, front, up = (0.0 - mm for mm in found.shift_mm)
    return replace(found, shift_mm=(right, front, up))


def _most_alike(fixed: sitk.Image, moving: sitk.Image) -> Alignment | None:
    grid = _common_grid(as_voxels(fixed)[1], as_voxels(moving)[1])
    if grid is None:
        return None
    still, still_valid = _sampled(fixed, grid)
    for reach in REACHES:
        moved, moved_valid = _sampled(moving, _padded(grid, reach))
        inside = slice(reach, -reach)
        everywhere = ndimage.minimum_filter(moved_valid, 2 * reach + 1)[inside, inside, inside]
        points = np.argwhere(still_valid & everywhere)
        if len(points) >= MIN_POINTS:
            points = points[:: -(-len(points) // MAX_POINTS)]
            measures = _measures((still, still_valid), (moved, moved_valid), points, reach)
            found = _search(measures, moved.shape, reach, grid.affine[:3, :3], len(points))
            return found if found.there >= MIN_INFORMATION else None
    return None


def _measures(
    still: tuple[FloatArray, NDArray[np.bool_]],
    moved: tuple[FloatArray, NDArray[np.bool_]],
    points: NDArray[np.int64],
    reach: int,
) -> list[Similarity]:
    """Mutual information, edges of the values, edges of their ranks, which show soft tissue beside air and bone."""
    flat = np.ravel_multi_index(tuple((points + reach).T), moved[0].shape)
    at = tuple(points.T)
    bins, values = _ranks(*still, BINS)[at] * BINS, _ranks(*moved, BINS).ravel()
    measures: list[Similarity] = [lambda step: _information(bins + values[flat + step])]
    for view in (_clipped, _ranks):
        measures.append(_edge_measure(_edges(view(*still), still[1])[at], _edges(view(*moved), moved[1]), flat))
    return measures


def _edge_measure(still: FloatArray, moved: FloatArray, flat: NDArray[np.int64]) -> Similarity:
    """Mean squared cosine between the edges' directions, weighted by their strength (Haber and Modersitzki 2006)."""
    strength = (still**2).sum(-1)
    kept = strength > 1e-3
    own, rows, where = still[kept], moved.reshape(-1, 3), flat[kept]
    total = float((strength[kept] ** 2).sum()) or 1.0
    return lambda step: float((np.einsum("pc,pc->p", own, rows[where + step]) ** 2).sum()) / total


def _search(measures: list[Similarity], shape: tuple[int, ...], reach: int, axes: FloatArray, points: int) -> Alignment:
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    known: dict[tuple[int, ...], FloatArray] = {}

    def similarity(shift: tuple[int, ...]) -> FloatArray:
        if shift not in known:
            known[shift] = np.array([measure(int(np.dot(shift, strides))) for measure in measures])
        return known[shift]

    steps = range(-(reach - reach % COARSE), reach + 1, COARSE)
    coarse = sorted(product(steps, repeat=3), key=lambda shift: np.dot(shift, shift))  # the nearest of equals wins
    everywhere = np.array([similarity(shift) for shift in coarse])
    scale = np.where(everywhere.std(0) > 1e-9, everywhere.std(0), np.inf)

    def score(shift: tuple[int, ...]) -> float:
        return float((similarity(shift) / scale).sum())

    first = max(coarse, key=score)
    around = product(*(range(max(-reach, n - COARSE), min(reach, n + COARSE) + 1) for n in first))
    best = max((first, *around), key=score)
    # The fixed point x looks like the moving image at x + s: the moving image belongs s further back.
    back = -(axes @ _between_steps(score, best, reach)) + 0.0
    here, there = similarity((0, 0, 0)), similarity(best)
    return Alignment(
        shift_mm=(float(back[0]), float(back[1]), float(back[2])),
        here=float(here[0]),
        there=float(there[0]),
        edges_here=float(here[1:].mean()),
        edges_there=float(there[1:].mean()),
        points=points,
    )


def _between_steps(score: Callable[[tuple[int, ...]], float], best: tuple[int, ...], reach: int) -> FloatArray:
    """The top of the parabola through the best shift and its neighbours, along each axis."""
    refined = np.array(best, dtype=float)
    for axis, n in enumerate(best):
        if abs(n) < reach:
            low, middle, high = (score((*best[:axis], n + d, *best[axis + 1 :])) for d in (-1, 0, 1))
            bend = 2 * middle - low - high
            refined[axis] += 0.5 * (high - low) / bend if bend > 0 else 0.0
    return refined


def _information(pairs: NDArray[np.int64]) -> float:
    """Normalized mutual information (Studholme), less its minimum 1, of joint bin numbers."""
    joint = np.bincount(pairs, minlength=BINS * BINS).reshape(BINS, BINS) / pairs.size
    both = _entropy(joint)
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / both - 1 if both > 0 else 0.0


def _entropy(shares: NDArray[np.floating[Any]]) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


def _ranks(values: FloatArray, valid: NDArray[np.bool_], bins: int = 128) -> NDArray[np.int64]:
    """Bin numbers with equally many points each, as far as equal values allow: no scale has to be known."""
    if not valid.any():
        return np.zeros(values.shape, dtype=np.int64)
    edges = np.unique(np.quantile(values[valid], np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, values).astype(np.int64)


def _clipped(values: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
    """Values without the highest and lowest of them, which metal, noise and bladders have."""
    return np.clip(values, *np.quantile(values[valid], (0.005, 0.995))) if valid.any() else values


def _edges(values: NDArray[Any], valid: NDArray[np.bool_]) -> FloatArray:
    """Gradients divided by their length, those of noise much shorter: ``(i, j, k, 3)``, 0 near the border."""
    smooth = ndimage.gaussian_filter(values.astype(np.float32), EDGE_SIGMA_MM / STEP_MM)
    if min(values.shape) < 2 or not (inner := ndimage.binary_erosion(valid, np.ones((3, 3, 3)))).any():
        return np.zeros((*values.shape, 3), dtype=np.float32)
    gradient = np.stack(np.gradient(smooth), axis=-1)
    squared = (gradient**2).sum(-1)
    noise = np.quantile(squared[inner], FLAT)
    return np.asarray(gradient / np.sqrt(squared + noise + 1e-20)[..., None] * inner[..., None], dtype=np.float32)


def _common_grid(fixed: Grid, moving: Grid) -> Grid | None:
    """A grid of `STEP_MM` with the axes of the fixed image, over the middle of what both show."""
    corners = fixed.indices(moving.corners())
    low = np.maximum(corners.min(0), -0.5)
    high = np.minimum(corners.max(0), np.array(fixed.shape) - 0.5)
    steps = ((high - low) * fixed.spacing_mm // STEP_MM).astype(int)
    if steps.min() < 1:
        return None
    shape = tuple(int(n) for n in np.minimum(steps, MAX_STEPS))
    affine = np.eye(4)
    affine[:3, :3] = fixed.affine[:3, :3] / fixed.spacing_mm * STEP_MM
    affine[:3, 3] = fixed.world((low + high) / 2) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def _padded(grid: Grid, margin: int) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world([-margin] * 3)
    return Grid(tuple(n + 2 * margin for n in grid.shape), affine)


def _sampled(image: sitk.Image, grid: Grid) -> tuple[FloatArray, NDArray[np.bool_]]:
    """The image, smoothed to the step, on a grid; and where the grid lies within its field of view."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    sigmas = [max(0.01, 0.5 * np.sqrt(max(STEP_MM**2 - mm**2, 0))) for mm in image.GetSpacing()]
    target = empty_image(grid)
    inside = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    inside.CopyInformation(image)
    if min(image.GetSize()) >= 4:  # the recursive filter needs four voxels along each axis
        image = sitk.SmoothingRecursiveGaussian(image, sigmas)
    values = as_voxels(sitk.Resample(image, target, sitk.Transform(), sitk.sitkLinear, 0.0))[0]
    valid = as_voxels(sitk.Resample(inside, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0))[0] > 0
    return values, valid
