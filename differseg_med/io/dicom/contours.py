"""Contours of one slice as voxels: copies count once, contours within contours are holes, crossing ones add up.

But for contours that the file itself declares to be taken by exclusive or (``CLOSEDPLANAR_XOR``, PS3.3 C.8.8.6.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import shapely
from skimage.draw import polygon

from differseg_med.errors import CaseError
from differseg_med.geometry import BoolArray, FloatArray

SAME = 0.02
"""How far in pixels the lines of two contours may run apart for one to be a copy of the other: systems round positions
to 1e-4 mm or to a hundredth of a pixel, and begin or run round them differently."""

HOLE = 0.05
"""Share of a contour that may stick out of another one for it still to be a hole in it, drawn over the edge."""

DISAGREE = 0.5
"""Share of the area within contours by which the area of a slice's voxels may differ without a note."""


MOST_PAIRS = 10_000
"""Most pairs of contours of a slice that may touch or overlap: a file must not cost hours."""


class Contour(NamedTuple):
    """A closed contour.

    Args:
        points: (N, 3) in mm, RAS; (N, 2) as indices of a slice's pixels.
        exclusive: whether what it shares with the others on its slice is outside, also where they cross.
    """

    points: FloatArray
    exclusive: bool = False


@dataclass
class Account:
    """What was noticed while the contours of a region were filled.

    Args:
        copies: contours left out because another one is the same.
        crossing: slices on which contours crossed each other.
        thin: slices on which a contour lies so close within another that less than a pixel is left between them.
        disagreeing: of the slices whose voxels cover much less or more than their contours: number, and both areas in
            pixels.
    """

    copies: int = 0
    crossing: set[int] = field(default_factory=set)
    thin: set[int] = field(default_factory=set)
    disagreeing: list[tuple[int, float, int]] = field(default_factory=list)

    def notes(self, name: str, pixel_mm2: float) -> list[str]:
        """The same in words.

        Args:
            name: of the region.
            pixel_mm2: area of a pixel.
        """
        notes = []
        if self.copies:
            notes.append(f"{self.copies} contours of ROI {name} are copies of others and left out")
        if self.crossing:
            notes.append(
                f"contours of ROI {name} cross each other on {_slices(self.crossing)}: taken together; look at them"
            )
        if self.thin:
            notes.append(
                f"contours of ROI {name} lie within others on {_slices(self.thin)}, less than a pixel apart: taken "
                "as holes; look at them"
            )
        if self.disagreeing:
            number, area, voxels = max(self.disagreeing, key=lambda item: abs(item[1] - item[2]))
            notes.append(
                f"voxels and contours of ROI {name} differ much on {_slices({k for k, _, _ in self.disagreeing})}: "
                f"on slice {number + 1} voxels of {voxels * pixel_mm2:.1f} mm2 for contours of {area * pixel_mm2:.1f}"
            )
        return notes


def fill_slice(contours: Sequence[Contour], section: BoolArray, number: int, account: Account) -> None:
    """Fill the contours of one slice: a pixel is inside if its center is.

    A contour that is another one again (with another start or direction, or rounded) counts once. Contours that cross
    are taken together, but for exclusive ones, of which the file says itself what their common area is; those that lie
    within others are holes, and islands in holes (even-odd). A contour that crosses itself or touches itself (keyhole)
    is even-odd too.

    Args:
        contours: points (N, 2), indices of pixels.
        section: pixels, changed.
        number: of the slice, for the account.
        account: changed.

    Raises:
        CaseError: if too many lie over each other.
    """
    shapes = [_shape(contour.points) for contour in contours]
    pairs = _meeting(shapes)
    copies = {second for first, second in pairs if _same(shapes[first], shapes[second])}
    account.copies += len(copies)
    kept = [index for index in range(len(shapes)) if index not in copies]
    pairs = [pair for pair in pairs if not copies.intersection(pair)]
    united = [pair for pair in pairs if not any(contours[index].exclusive for index in pair)]
    groups = _groups(kept, [(first, second) for first, second in united if _cross(shapes[first], shapes[second])])
    if any(len(group) > 1 for group in groups):
        account.crossing.add(number)
    for group in groups:
        together = np.zeros_like(section)
        for index in group:
            rows, columns = polygon(contours[index].points[:, 0], contours[index].points[:, 1], section.shape)
            together[rows, columns] = True
        section ^= together
    if any(_thin(shapes[first], shapes[second]) for first, second in pairs):
        account.thin.add(number)
    outlines = [shapely.union_all([shapes[k] for k in group]) for group in groups]
    _compare(outlines, section, number, account)


def _shape(points: FloatArray) -> shapely.Geometry:
    """The area within a contour, by the even-odd rule if it crosses itself."""
    shape = shapely.Polygon(points)
    return shape if shape.is_valid else shapely.make_valid(shape)


def _meeting(shapes: Sequence[shapely.Geometry]) -> list[tuple[int, int]]:
    """Pairs of shapes, the first one's index lower, that have a point in common.

    Raises:
        CaseError: if there are so many that the file cannot be meant.
    """
    if len(shapes) < 2:
        return []
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = [(int(one), int(other)) for one, other in zip(first, second) if one < other]
    if len(pairs) > MOST_PAIRS:
        raise CaseError("too many contours lie over each other on one slice", found=f"{len(pairs)} pairs")
    return sorted(pairs)


def _same(one: shapely.Geometry, other: shapely.Geometry) -> bool:
    if np.abs(np.subtract(one.bounds, other.bounds)).max() > SAME:
        return False
    between = shapely.symmetric_difference(one, other).area
    return bool(between <= SAME * max(one.length, other.length) and between <= HOLE * max(one.area, other.area))


def _groups(indices: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The indices in groups that pairs connect, directly or by way of others; mostly each is alone."""
    groups = [[index] for index in indices]
    for pair in pairs:
        touched = [group for group in groups if not set(pair).isdisjoint(group)]
        groups = [group for group in groups if group not in touched] + [[index for group in touched for index in group]]
    return groups


def _cross(one: shapely.Geometry, other: shapely.Geometry) -> bool:
    """Whether they overlap and neither is (but for its edge) within the other."""
    shared, smaller = shapely.intersection(one, other).area, min(one.area, other.area)
    slack = max(HOLE * smaller, SAME * min(one.length, other.length))
    return bool(slack < shared < smaller - slack)


def _thin(one: shapely.Geometry, other: shapely.Geometry) -> bool:
    """Whether one is a hole in the other, and what is left around it less than a pixel wide on average."""
    inner, outer = sorted((one, other), key=lambda shape: float(shape.area))
    shared = shapely.intersection(outer, inner).area
    return bool(shared > (1 - HOLE) * inner.area > 0 and outer.area - shared < outer.length)


def _compare(outlines: Sequence[shapely.Geometry], section: BoolArray, number: int, account: Account) -> None:
    """Hold the slice's voxels against the area that the contours enclose within the image."""
    enclosed = shapely.Polygon()
    for outline in outlines:
        enclosed = shapely.symmetric_difference(enclosed, outline)
    image = shapely.box(-0.5, -0.5, section.shape[0] - 0.5, section.shape[1] - 0.5)
    area = shapely.intersection(enclosed, image).area
    voxels = int(section.sum())
    if abs(voxels - area) > max(DISAGREE * area, 1):
        account.disagreeing.append((number, area, voxels))


def _slices(numbers: set[int]) -> str:
    first = sorted(numbers)
    if len(first) == 1:
        return f"slice {first[0] + 1}"
    return f"{len(first)} slices from {first[0] + 1} to {first[-1] + 1}"
