"""Planes as slices of one volume: sorted in space, and refused where they do not make a regular grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from differseg_med.geometry import (
    ALMOST_SAME_VOXELS,
    MIN_SPACING_MM,
    SHEAR_DEGREES,
    FloatArray,
    Grid,
    affine_from_dicom,
    lps_points_to_ras,
)
from differseg_med.io.dicom.planes import Plane

_NAMED = 5
"""How many positions a message lists."""

WIDE = 1.9
"""A gap so many times wider than slices of that thickness usually are apart is no longer interpolated across."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in space.

    Args:
        order: indices of the planes from first to last along the normal.
        positions_mm: (n,) along the normal, LPS, ascending.
        affine: 4 x 4 RAS of the regular grid that fits best; voxel ``(i, j, k)`` is column, row, slice.
        places: (n, 3), center of each slice's first pixel in mm, RAS.
        problems: why the planes are no regular grid, in words with mm and degrees; empty if they are one.
        missing: whether slices are missing or too far apart: then no interpolation helps.
    """

    order: tuple[int, ...]
    positions_mm: FloatArray
    affine: FloatArray
    places: FloatArray
    problems: tuple[str, ...]
    missing: bool = False

    def grid(self, shape: tuple[int, int]) -> Grid:
        """The grid for planes of ``shape`` (rows, columns)."""
        return Grid((shape[1], shape[0], len(self.order)), self.affine)


def stack_planes(planes: Sequence[Plane], thickness_mm: Sequence[float] = ()) -> Stack:
    """Sort parallel planes along their normal and see whether they are a regular grid.

    Args:
        planes: parallel planes, each at a position of its own.
        thickness_mm: of each slice, if known. Of a single one it stands for the distance to the next; where it changes
            (thin slices through the base of the skull, thick ones above), wider gaps are none.

    Raises:
        ValueError: for one plane without a thickness.
    """
    orientation = np.median([plane.orientation for plane in planes], axis=0)
    spacing = np.median([plane.spacing for plane in planes], axis=0)
    normal = planes[0].normal
    places = np.array([plane.position for plane in planes])
    depth = places @ normal
    order = np.argsort(depth, kind="stable")
    places, depth = places[order], depth[order]
    if len(planes) == 1:
        if not thickness_mm or not MIN_SPACING_MM <= thickness_mm[0] < np.inf:
            raise ValueError("one plane has no distance to a next one")
        affine = affine_from_dicom(orientation, spacing, places[0], normal * thickness_mm[0])
        return Stack((0,), depth, affine, lps_points_to_ras(places), ())
    way = places[-1] - places[0]
    step = way / (len(planes) - 1)
    affine = affine_from_dicom(orientation, spacing, places[0], step)
    run = depth[-1] - depth[0]
    aside = float(np.linalg.norm(way - run * normal))
    tilt = float(np.degrees(np.arctan2(aside, run)))
    problems = []
    thickness = np.array(thickness_mm)[order] if thickness_mm else np.ones(len(planes))
    uneven, missing = _spacing_problem(depth, thickness)
    if uneven:
        problems.append(uneven)
    if tilt > SHEAR_DEGREES:
        problems.append(
            f"the slices are tilted: each is shifted against the last, {tilt:.1f} degrees off the perpendicular "
            f"(gantry tilt), from {depth[0]:.1f} to {depth[-1]:.1f} mm"
        )
    expected = places[0] + np.outer((depth - depth[0]) / run, way)
    shifted = np.linalg.norm(places - expected, axis=1)
    if shifted.max() > ALMOST_SAME_VOXELS * spacing.min():
        worst = int(shifted.argmax())
        problems.append(
            f"slices do not lie behind each other: the one at {depth[worst]:.2f} mm is {shifted[worst]:.2f} mm aside"
        )
    return Stack(tuple(order.tolist()), depth, affine, lps_points_to_ras(places), tuple(problems), missing)


def usual_distance(positions_mm: FloatArray) -> float:
    """The median distance of neighbouring slices; of two equally frequent ones the smaller."""
    return float(np.quantile(np.diff(positions_mm), 0.5, method="lower"))


def _spacing_problem(depth: FloatArray, thickness: FloatArray) -> tuple[str, bool]:
    """What is wrong with the distances of slices, and whether some are missing (then no resampling helps)."""
    gaps = np.diff(depth)
    step = (depth[-1] - depth[0]) / len(gaps)
    even = depth[0] + step * np.arange(len(depth))
    if np.abs(depth - even).max() <= ALMOST_SAME_VOXELS * step:
        return "", False
    usual = usual_distance(depth)
    times = gaps / (thickness[1:] + thickness[:-1])
    times /= np.median(times)
    wide = np.flatnonzero(times > 1.5)
    whole = np.abs(times - times.round()) <= 0.1 * np.maximum(times.round(), 1)
    if len(wide) and whole.all():
        holes = [f"{int(times[i].round()) - 1} between {depth[i]:.2f} and {depth[i + 1]:.2f} mm" for i in wide]
        return f"slices are missing: {_listed(holes)}; the others are {usual:.2f} mm apart", True
    odd = np.flatnonzero(np.abs(gaps - usual) > ALMOST_SAME_VOXELS * usual)
    places = [f"{gaps[i]:.2f} mm at {depth[i]:.2f} mm" for i in odd]
    text = f"the slices are unevenly spaced, {gaps.min():.2f} to {gaps.max():.2f} mm apart: usually {usual:.2f} mm"
    text += f", but {_listed(places)}" if places else ""
    if times.max() < WIDE:
        return text, False
    return f"{text}; nobody knows what lies in a gap of {gaps[times.argmax()]:.2f} mm", True


def _listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED} more places" if len(places) > _NAMED else ""
    return ", ".join(places[:_NAMED]) + more
