"""RTSTRUCT regions as masks, placed by geometry: the images that the contours name may not exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from differseg_med.errors import CaseError, private
from differseg_med.geometry import FloatArray, Grid, describe, lps_points_to_ras
from differseg_med.io.dicom.contours import Account, Contour, fill_slice
from differseg_med.io.dicom.files import Header, UnreadableError, opened, quiet, read_dataset
from differseg_med.io.dicom.names import choose

PLANE_TOLERANCE = 0.1
"""How far, in slices, a contour may be from a slice's plane: contours carry rounded positions."""

EXCLUSIVE = "CLOSEDPLANAR_XOR"
CLOSED = ("CLOSED_PLANAR", EXCLUSIVE, "INTERPOLATED_PLANAR")


@dataclass(frozen=True, eq=False)
class Region:
    """Contours of one or more regions.

    Args:
        name: ROI name(s).
        contours: per region its contours, points (N, 3); none of a region without contours.
        frame_uid: FrameOfReferenceUID, empty if unknown.
        notes: what was left out.
    """

    name: str
    contours: tuple[tuple[Contour, ...], ...]
    frame_uid: str
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What messages call it: names of regions may hold a patient's."""
        return f"ROI {private(self.name, 'of the label')}"

    @property
    def empty(self) -> bool:
        """Whether it has no contour at all: somebody looked and drew nothing."""
        return not any(self.contours)


def read_region(header: Header, selector: str) -> Region:
    """Read regions of an RTSTRUCT.

    Args:
        header: of the RTSTRUCT.
        selector: ROI name or number, or several with commas; may be empty if there is one region.

    Raises:
        CaseError: if there is no such region (the names are listed), or it has contours, but no closed one.
    """
    file = header.source.path
    chosen = choose(selector, header.tags.get("regions", ()), "ROI", file)
    with quiet():
        for _, stream in opened([header.source]):
            try:
                dataset = read_dataset(stream, pixels=True)
                found = [_contours(dataset, number) for number, _ in chosen]
                frame_uid = _frame_uid(header, dataset, chosen)
            except UnreadableError as error:
                raise CaseError(str(error), file=file) from error
            except AttributeError as error:
                raise CaseError("the RTSTRUCT has no closed contour of any ROI", file=file) from error
            except Exception as error:  # pydicom raises whatever the damaged bytes lead to
                raise CaseError(
                    "the contours of the RTSTRUCT cannot be read", file=file, found=type(error).__name__
                ) from error
    left_out = sum(count for _, count in found)
    names = ", ".join(name for _, name in chosen)
    if open_only := [name for (_, name), (contours, others) in zip(chosen, found) if others and not contours]:
        raise CaseError(
            f"ROI {private(', '.join(open_only), 'of the label')} has no closed contour",
            file=file,
            remedy="Choose another ROI.",
        )
    called = private(names, "of the label")
    notes = [f"{left_out} points, lines or specks of ROI {called} left out"] if left_out else []
    if empty := [name for (_, name), (contours, _) in zip(chosen, found) if not contours]:
        notes.append(f"ROI {private(', '.join(empty), 'of the label')} has no contours: taken as empty")
    return Region(names, tuple(contours for contours, _ in found), frame_uid, tuple(notes))


def _contours(dataset: Dataset, number: int | None) -> tuple[tuple[Contour, ...], int]:
    """Closed contours of one region, and how many other things it has."""
    contours: list[Contour] = []
    others = 0
    for roi in dataset.ROIContourSequence:  # whose absence means a damaged file; an item of it may be empty
        if roi.get("ReferencedROINumber") != number:
            continue
        for contour in roi.get("ContourSequence") or ():
            points = np.asarray(contour.get("ContourData") or (), dtype=np.float64)
            kind = str(contour.get("ContourGeometricType", CLOSED[0]))
            if kind not in CLOSED or len(points) < 9:
                others += 1
                continue
            if len(points) % 3 or not np.isfinite(points).all():
                raise ValueError("a contour with incomplete points")
            contours.append(Contour(lps_points_to_ras(points.reshape(-1, 3)), kind == EXCLUSIVE))
    return tuple(contours), others


def _frame_uid(header: Header, dataset: Dataset, chosen: Sequence[tuple[int | None, str]]) -> str:
    numbers = [number for number, _ in chosen]
    for roi in dataset.get("StructureSetROISequence") or ():
        if roi.get("ROINumber") in numbers and roi.get("ReferencedFrameOfReferenceUID"):
            return str(roi.ReferencedFrameOfReferenceUID)
    return str(header.tags.get("FrameOfReferenceUID", ""))


def rasterize(region: Region, grid: Grid) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Fill the contours on the slices of a grid: a voxel is inside if its center is, see `fill_slice`.

    Args:
        region: contours in the slice planes of the grid; oblique grids are as good as others.
        grid: that of the image that the contours were drawn on.

    Returns:
        The mask ``(i, j, k)``, and notes.

    Raises:
        CaseError: if contours do not lie in slices of the grid, or hold the center of none of its voxels.
    """
    axis = _slice_axis(region, grid)
    order = [axis, *(other for other in range(3) if other != axis)]
    mask = np.zeros(grid.shape, dtype=np.bool_)
    outside = missed = 0
    account = Account()
    for contours in region.contours:
        own = np.zeros(grid.shape, dtype=np.bool_) if len(region.contours) > 1 else mask
        indices = [Contour(grid.indices(c.points)[:, order], c.exclusive) for c in contours]
        numbers = [int(np.rint(c.points[:, 0].mean())) for c in indices]
        outside += sum(not _inside(c.points, grid, order) for c in indices)
        _fill(own.transpose(order), indices, numbers, account)
        missed += int((np.diff(np.unique(numbers)) == 2).sum())
        if own is not mask:
            mask |= own
    total = sum(map(len, region.contours))
    if not mask.any():
        raise CaseError(
            f"{region.shown} holds no voxel's center",
            expected=f"contours on {describe(grid)}",
            found=f"{outside} of {total} contours outside" if outside else "contours smaller than a voxel",
        )
    notes = [f"{missed} single slices without a contour of {region.shown} between others"] if missed else []
    if outside:
        notes.append(f"{outside} of {total} contours of {region.shown} lie outside of the image, whole or in part")
    pixel_mm2 = float(np.prod([grid.spacing_mm[other] for other in order[1:]]))
    return mask, (*region.notes, *notes, *account.notes(region.name, pixel_mm2))


def _fill(slices: NDArray[np.bool_], indices: Sequence[Contour], numbers: Sequence[int], account: Account) -> None:
    """Fill contours (N, 3) in ``slices`` (slice, i, j), slice by slice."""
    for number in sorted(set(numbers)):
        if 0 <= number < len(slices):
            own = [Contour(c.points[:, 1:], c.exclusive) for c, its in zip(indices, numbers) if its == number]
            fill_slice(own, slices[number], number, account)


def _inside(points: FloatArray, grid: Grid, order: Sequence[int]) -> bool:
    """Whether all of a contour (N, 3) lies in the image."""
    shape = np.array(grid.shape)[list(order)]
    inside = 0 <= np.rint(points[:, 0].mean()) < shape[0]
    return bool(inside and (points[:, 1:] >= -1).all() and (points[:, 1:] <= shape[1:]).all())


def why_misplaced(region: Region, grid: Grid) -> str | None:
    """Why the contours cannot lie in slices of the grid, in words; None if they can."""
    try:
        _slice_axis(region, grid)
    except CaseError as error:
        return f"{error.problem} ({error.found})" if error.found else error.problem
    boxes = [(points.min(axis=0), points.max(axis=0)) for points in _all_indices(region, grid)]
    if all((high < -0.5).any() or (low > np.array(grid.shape) - 0.5).any() for low, high in boxes):
        return f"{region.shown} lies outside"
    return None


def _all_indices(region: Region, grid: Grid) -> list[FloatArray]:
    return [grid.indices(contour.points) for contours in region.contours for contour in contours]


def _slice_axis(region: Region, grid: Grid) -> int:
    """The axis of the grid along which the contours' planes are stacked.

    Raises:
        CaseError: if there is none.
    """
    indices = _all_indices(region, grid)
    spread = np.array([np.ptp(points, axis=0) for points in indices]).max(axis=0)
    axis = int(spread.argmin())
    if spread[axis] > 2 * PLANE_TOLERANCE:
        raise CaseError(
            f"the contours of {region.shown} are not in the planes of the image's slices",
            found=f"they cross {spread[axis]:.1f} slices",
            remedy="Name the image that they were drawn on, see the RTSTRUCT's ReferencedSeries.",
        )
    places = np.array([points[:, axis].mean() for points in indices])
    off = np.abs(places - places.round())
    if off.max() > PLANE_TOLERANCE:
        mm = grid.spacing_mm[axis]
        raise CaseError(
            f"the contours of {region.shown} lie between the slices of the image",
            found=f"up to {off.max() * mm:.2f} mm from the next slice, slices {mm:.2f} mm apart",
            remedy="Name the image that they were drawn on, see the RTSTRUCT's ReferencedSeries.",
        )
    gaps = np.diff(np.unique(places.round().astype(int)))
    # Small lesions far apart leave slices out too, but not evenly.
    if len(gaps) > 1 and gaps.min() > 1 and not (gaps % gaps.min()).any():
        raise CaseError(
            f"the contours of {region.shown} skip slices of the image",
            found=f"contours on one slice of {gaps.min()}",
            remedy="They were drawn on an image with thicker slices: name that one.",
        )
    return axis
