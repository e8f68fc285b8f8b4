"""Do two images of one case show the patient in the same place? Mutual information tells, with figures.

One image is shifted against the other, and their normalized mutual information is measured at each shift. If it is
clearly higher some way off than anywhere near the place that the headers state, the images do not line up. Only rigid
neighbours can be judged so: PET and CT of one examination, or MR sequences of one examination. Between MR and CT the
patient has been moved, and muscle and fat lie elsewhere by a centimetre; such pairs are measured but not judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from differseg_med.cohort.audit import Finding
from differseg_med.cohort.itk import as_voxels, empty_image
from differseg_med.geometry import FloatArray, Grid

STEP_MM = 3.0
"""Distance between compared points, and between shifts."""

REACHES = (6, 5, 4)
"""How far to search, in steps: the farthest that leaves `MIN_POINTS` to compare."""

MIN_POINTS = 1000
"""Fewest points from which a mutual information is credible."""

MAX_POINTS = 20_000
"""Most points that are compared, evenly drawn: more take time and change nothing."""

NEAR_MM = 4.5
"""Shifts up to here count as lined up: a step of the search along two axes, which PET and CT differ by in breathing."""

FAR_MM = 6.5
"""Shortest shift that is reported: PET and CT of one patient differ by up to 6 mm where nothing went wrong."""

MIN_GAIN = 1.035
"""How much higher the information must be far off than near. These three were chosen on the sarcoma patients, see
scripts/measure_alignment.py."""

BINS = 16
KINDS = {"ct": r"^ct(_|$)", "pet": r"^(pet|pt|suv)(_|$)"}
JUDGED = ({"ct", "pet"}, {"mr"}, {"ct"}, {"pet"})
"""Kinds of pairs in which the patient lies the same way: PET and CT, or two of one kind."""


@dataclass(frozen=True)
class Alignment:
    """What shifting one image against another showed.

    Args:
        shift_mm: RAS, how far the second image should be moved to line up with the first best.
        here: normalized mutual information (0: none) where the headers put the images.
        near: highest of the shifts up to `NEAR_MM`.
        best: highest of all shifts.
        points: number of compared points.
    """

    shift_mm: tuple[float, float, float]
    here: float
    near: float
    best: float
    points: int

    @property
    def distance_mm(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self.shift_mm))

    @property
    def gain(self) -> float:
        """By what factor the information is higher far off than near; 1 if it is not."""
        return self.best / max(self.near, 1e-9)

    @property
    def off(self) -> bool:
        """Whether the images do not line up."""
        return self.gain > MIN_GAIN and self.distance_mm >= FAR_MM

    def describe(self) -> str:
        """The figures in words."""
        right, front, up = self.shift_mm
        return (
            f"normalized mutual information {self.here:.3f} in place, {self.near:.3f} within {NEAR_MM:.0f} mm, "
            f"{self.best:.3f} when moved by {self.distance_mm:.0f} mm "
            f"({right:+.0f} right, {front:+.0f} front, {up:+.0f} up)"
        )


def kind_of(modality: str) -> str:
    """``ct``, ``pet`` or ``mr`` from a column's name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, modality, re.IGNORECASE)), "mr")


def is_judged(a: str, b: str) -> bool:
    """Whether two modalities are taken with the patient lying the same way."""
    return {kind_of(a), kind_of(b)} in JUDGED


def check_alignment(images: Mapping[str, sitk.Image], case: str | None = None) -> list[Finding]:
    """Compare every pair of a case's modalities.

    Args:
        images: SimpleITK image of each modality.
        case: case id for the findings.

    Returns:
        A finding per pair: a warning for a pair that does not line up and is judged, else ok; always with figures.
    """
    findings = []
    for a, b in combinations(images, 2):
        measured = measure_alignment(images[a], images[b])
        pair = f"{a} and {b}"
        if measured is None:
            findings.append(Finding(case, b, "ok", f"{pair}: too little in common to compare where they lie"))
        elif not measured.off:
            findings.append(Finding(case, b, "ok", f"{pair} line up: {measured.describe()}"))
        elif is_judged(a, b):
            remedy = "Look at both in a viewer; if they do not fit, register them (cohort register)."
            findings.append(Finding(case, b, "warning", f"{pair} do not line up: {measured.describe()}", remedy))
        else:
            words = "not judged: taken with the patient lying differently"
            findings.append(Finding(case, b, "ok", f"{pair} ({words}): {measured.describe()}"))
    return findings


def measure_alignment(a: sitk.Image, b: sitk.Image) -> Alignment | None:
    """Search the shift of ``b`` at which two images share most information; None if they share too little to tell.

    The image with the larger voxels stays and the other is sampled at its place, which blurs least.

    Args:
        a: 3-D image.
        b: 3-D image in the same space, on any grid.
    """
    swapped = _voxel_mm3(a) < _voxel_mm3(b)
    fixed, moving = (b, a) if swapped else (a, b)
    grid = _coarse_grid(as_voxels(fixed)[1])
    still, still_valid = _sampled(fixed, grid)
    for reach in REACHES:
        moved, moved_valid = _sampled(moving, _padded(grid, reach))
        inside = slice(reach, -reach)
        everywhere = ndimage.minimum_filter(moved_valid, 2 * reach + 1)[inside, inside, inside]
        points = np.argwhere(still_valid & everywhere)
        if len(points) >= MIN_POINTS:
            points = points[:: -(-len(points) // MAX_POINTS)]
            found = _search(_ranks(still, still_valid), _ranks(moved, moved_valid), points, reach, grid.affine)
            return _turned_round(found) if swapped else found
    return None


def _voxel_mm3(image: sitk.Image) -> float:
    return float(np.prod(image.GetSpacing()))


def _turned_round(found: Alignment) -> Alignment:
    right, front, up = (0.0 - mm for mm in found.shift_mm)
    return replace(found, shift_mm=(right, front, up))


def _search(
    still: NDArray[np.int64], moved: NDArray[np.int64], points: NDArray[np.int64], reach: int, affine: FloatArray
) -> Alignment:
    shifts = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    fixed_bins = still[tuple(points.T)] * BINS
    flat = np.ravel_multi_index(tuple((points + reach).T), moved.shape)
    strides = np.array([moved.shape[1] * moved.shape[2], moved.shape[2], 1])
    values = moved.ravel()
    information = np.array([_information(fixed_bins + values[flat + int(s @ strides)]) for s in shifts])
    near = np.linalg.norm(shifts, axis=1) * STEP_MM <= NEAR_MM
    best = int(information.argmax())
    # The fixed point x looks like the moving image at x + s: the moving image belongs s further back.
    back = -(affine[:3, :3] @ shifts[best]) + 0.0
    here = information[(shifts == 0).all(axis=1)][0]
    shift = (float(back[0]), float(back[1]), float(back[2]))
    return Alignment(shift, float(here), float(information[near].max()), float(information[best]), len(points))


def _information(pairs: NDArray[np.int64]) -> float:
    """Normalized mutual information (Studholme), less its minimum 1, of joint bin numbers."""
    joint = np.bincount(pairs, minlength=BINS * BINS).reshape(BINS, BINS) / pairs.size
    both = _entropy(joint)
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / both - 1 if both > 0 else 0.0


def _entropy(shares: NDArray[np.floating[Any]]) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


def _coarse_grid(grid: Grid) -> Grid:
    """A grid of `STEP_MM` with the axes and the center of another."""
    shape = [max(1, int(mm // STEP_MM)) for mm in grid.extent_mm]
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] / grid.spacing_mm * STEP_MM
    middle = grid.world((np.array(grid.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


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


def _ranks(values: FloatArray, valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Bin numbers with equally many points each, as far as equal values allow: no scale has to be known."""
    if not valid.any():
        return np.zeros(values.shape, dtype=np.int64)
    edges = np.unique(np.quantile(values[valid], np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.searchsorted(edges, values).astype(np.int64)
