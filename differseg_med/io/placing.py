"""Which image of a case a label was drawn on, and the label's voxels on that image's grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import CaseError, private
from differseg_med.geometry import BoolArray, Grid, describe, differences, lattice_map
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.dicom.files import Header
from differseg_med.io.dicom.reader import find_part, is_dicom
from differseg_med.io.dicom.rtstruct import Region, why_misplaced
from differseg_med.io.volumes import file_grid

Cell = str | Path

_REMEDY = "Name the image that it was drawn on in this row."


def images_of(header: Header, frame_uid: str, reference_images: Sequence[Cell]) -> dict[Cell, tuple[str, ...]]:
    """The images that a DICOM label can belong to, each with notes.

    An image in another frame of reference is none of them, unless the label names its series: some programs write
    frames of reference of their own making.

    Args:
        header: of the RTSTRUCT or SEG.
        frame_uid: FrameOfReferenceUID of the label, empty if unknown.
        reference_images: the images of the case as cells.

    Raises:
        CaseError: if there are images, and none that the label can belong to.
    """
    found: dict[Cell, tuple[str, ...]] = {}
    for cell in reference_images:
        frame = _tag(cell, "FrameOfReferenceUID")
        if not frame_uid or not frame or frame == frame_uid:
            found[cell] = ()
        elif is_referenced(cell, header):
            name = _name(cell)
            found[cell] = (f"the label names the series {name}, but another frame of reference: placed by position",)
    if reference_images and not found:
        raise CaseError(
            "the label is in another frame of reference than the case's images",
            file=header.source.path,
            found=", ".join(map(_name, reference_images)),
            remedy=_REMEDY,
        )
    return found


def is_referenced(cell: Cell, header: Header) -> bool:
    """Whether a DICOM label names the series of an image."""
    return _tag(cell, "SeriesInstanceUID") in header.tags.get("referenced_series", ())


def drawn_grid(region: Region, header: Header, reference_images: Sequence[Cell]) -> tuple[Grid, tuple[str, ...]]:
    """The grid of the image that the contours were drawn on, and notes.

    Args:
        region: of an RTSTRUCT.
        header: of the RTSTRUCT.
        reference_images: the images of the case; one that the RTSTRUCT refers to comes first.

    Raises:
        CaseError: if the contours fit none of them.
    """
    if not reference_images:
        raise CaseError(
            "an RTSTRUCT needs the image that it was drawn on", file=header.source.path, remedy="Add it to the row."
        )
    images = images_of(header, region.frame_uid, reference_images)
    reasons = []
    for cell in sorted(images, key=lambda cell: not is_referenced(cell, header)):
        grid = file_grid(cell)
        reason = why_misplaced(region, grid)
        if reason is None:
            return grid, images[cell]
        reasons.append(f"{_name(cell)}: {reason}")
    raise CaseError(
        f"{region.shown} fits none of the case's images",
        file=header.source.path,
        found="; ".join(reasons),
        remedy=_REMEDY,
    )


def empty_on(images: Iterable[Cell], file: Path, header: Header | None = None) -> tuple[BoolArray, Grid]:
    """An empty mask on the grid of the image that a label without content belongs to.

    Args:
        images: cells, the preferred first.
        file: of the label, for messages.
        header: of a DICOM label; an image whose series it names comes first.

    Raises:
        CaseError: if there is no image.
    """
    cells = sorted(images, key=lambda cell: header is not None and not is_referenced(cell, header))
    if not cells:
        raise CaseError(
            "the label is empty, and only its image could say how large", file=file, remedy="Add the image to the row."
        )
    grid = file_grid(cells[0])
    return np.zeros(grid.shape, dtype=np.bool_), grid


def place(
    mask: BoolArray, grid: Grid, images: Iterable[Cell], file: Path, *, left_out: bool = False
) -> tuple[BoolArray, Grid, tuple[str, ...]]:
    """The mask on the whole grid of the first image whose voxels are its own; else as it is, with a note.

    Args:
        mask: ``(i, j, k)`` on ``grid``.
        grid: where it is.
        images: cells, the preferred first.
        file: of the label, for messages.
        left_out: whether empty slices may have been left out, see `lattice_map`.

    Raises:
        CaseError: if all of the label lies outside of every image.
    """
    seen: dict[Cell, Grid] = {}
    count = int(mask.sum())
    for cell in images:
        seen[cell] = target = file_grid(cell)
        to_target = lattice_map(grid, target, left_out=left_out)
        placed = None if to_target is None else _moved(mask, to_target, target.shape)
        if placed is not None and (placed.any() or not count):
            lost = count - int(placed.sum())
            return placed, target, (f"{lost} voxels of the label lie outside the image",) if lost else ()
    if seen and count and not any(_reaches(mask, grid, target) for target in seen.values()):
        raise CaseError(
            "the label lies outside of the image",
            file=file,
            expected="; ".join(map(describe, seen.values())),
            found=f"none of its {count} voxels inside",
            remedy=_REMEDY,
        )
    notes = tuple(f"not on the voxels of {_name(cell)}: {differences(grid, target)}" for cell, target in seen.items())
    return mask, grid, notes


def _moved(mask: BoolArray, to_target: NDArray[np.int64], shape: tuple[int, ...]) -> BoolArray:
    """The mask on a grid of the same lattice; what lies outside is lost."""
    placed = np.zeros(shape, dtype=np.bool_)
    order = np.abs(to_target[:3, :3]).argmax(axis=1)  # which axis of the mask runs along each of the target's
    places = [to_target[k, own] * np.arange(mask.shape[own]) + to_target[k, 3] for k, own in enumerate(order)]
    inside = [(place >= 0) & (place < size) for place, size in zip(places, shape)]
    placed[np.ix_(*(place[kept] for place, kept in zip(places, inside)))] = mask.transpose(order)[np.ix_(*inside)]
    return placed


def _reaches(mask: BoolArray, grid: Grid, target: Grid) -> bool:
    """Whether any voxel of the mask has its center in the field of view of ``target``."""
    indices = target.indices(grid.world(np.argwhere(mask)))
    return bool(((indices >= -0.5) & (indices <= np.array(target.shape) - 0.5)).all(axis=1).any())


def _name(cell: Cell) -> str:
    return private(split_cell(cell)[0].name, "an image")


def _tag(cell: Cell, name: str) -> str:
    """An attribute of a DICOM image; empty for other files."""
    if not is_dicom(cell):
        return ""
    part, _, _ = find_part(cell)
    return str(part.frames[0].tags.get(name, "")) if part.frames else ""
