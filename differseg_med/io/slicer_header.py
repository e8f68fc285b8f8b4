"""Headers of segmentations of 3D Slicer (``.seg.nrrd``): which segments there are, and where, in every version's way.

Since Slicer 4.11 segments that do not overlap share a layer, each with a value; before, each had a layer with the value
1. Until about 2015 a file had four spatial axes, positions in RAS, and an origin that is not the first voxel's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import from_matvec

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, affine_from_itk, check_affine
from differseg_med.io.headers import itk_header

SEGMENTATION_ENDINGS = (".seg.nrrd", ".seg.nhdr")
_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")
"""Spaces that ITK turns into LPS."""


MOST_VOXELS = 2**15
"""Most voxels of an axis that is believed of a reference geometry."""


@dataclass(frozen=True)
class Segment:
    """One segment: which voxels it has.

    Args:
        name: as 3D Slicer shows it.
        layer: number of the layer.
        value: value of its voxels, None for any but 0.
        extent: first and last voxel along i, j, k, outside of which 3D Slicer shows none of it.
    """

    name: str
    layer: int
    value: int | None
    extent: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Header of a segmentation.

    Args:
        grid: of each layer, RAS; it may be smaller than the image's.
        layers: how many.
        segments: in the order of the file; none if the file describes none.
        reference: grid of the image that it was drawn on, RAS, as the file keeps it; None if it does not.
    """

    grid: Grid
    layers: int
    segments: tuple[Segment, ...]
    reference: Grid | None = None


def is_segmentation(path: Path) -> bool:
    """Whether a file is a segmentation of 3D Slicer, by its ending or the names in its header."""
    name = path.name.lower()
    if name.endswith(SEGMENTATION_ENDINGS) or not name.endswith((".nrrd", ".nhdr")) or not path.is_file():
        return name.endswith(SEGMENTATION_ENDINGS)
    with path.open("rb") as file:
        return b"\nSegment0_" in file.read(4096)


def read_segmentation_header(path: Path) -> Segmentation:
    """Read the header of a segmentation.

    Raises:
        CaseError: if it cannot be read, or does not say where it is in the patient.
    """
    reader = itk_header(path)
    header = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    size, spacing, origin, direction = (
        np.array(values)
        for values in (reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    )
    start = np.array(_numbers(header.get("Segmentation_Extent", "0 0 0 0 0 0"))[::2])
    if "Segmentation_Extent" in header and len(size) == 4:
        turn = direction.reshape(4, 4)[:3, :3] * spacing[:3]
        grid = Grid(tuple(size[:3]), from_matvec(turn, origin[:3] + turn @ start))
        layers = int(size[3])
    elif header.get("NRRD_space") in _SPACES and len(size) == 3:
        grid = Grid(tuple(size), affine_from_itk(spacing, origin, direction))
        layers, start = reader.GetNumberOfComponents(), np.zeros(3, dtype=int)
    else:
        raise CaseError(
            "the segmentation does not say where it is in the patient",
            file=path,
            expected=f"space {' or '.join(_SPACES)}",
            found=f"{len(size)} axes, space {header.get('NRRD_space', 'not stated')}",
            remedy="Save it again from 3D Slicer.",
        )
    if problem := check_affine(grid.affine):
        raise CaseError(problem, file=path, remedy="Save it again from 3D Slicer.")
    reference = _reference(header.get("Segmentation_ConversionParameters", ""))
    return Segmentation(grid, layers, tuple(_segments(header, layers, start, path)), reference)


def _reference(parameters: str) -> Grid | None:
    """The grid in ``Reference image geometry|16 numbers, row by row, RAS;first and last voxel of each axis;|...``."""
    match = re.search(r"Reference image geometry\|([^|&]*)", parameters)
    try:
        numbers = [float(word) for word in match[1].split(";") if word.strip()] if match else []
    except ValueError:
        return None
    if len(numbers) != 22 or not np.isfinite(numbers).all():
        return None
    affine, extent = np.array(numbers[:16]).reshape(4, 4), np.array(numbers[16:], dtype=int).reshape(3, 2)
    shape = extent[:, 1] - extent[:, 0] + 1
    if not ((shape > 0) & (shape < MOST_VOXELS)).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
        return None
    return Grid(tuple(shape.tolist()), affine @ from_matvec(np.eye(3), extent[:, 0]))


def _segments(header: Mapping[str, str], layers: int, start: np.ndarray, path: Path) -> list[Segment]:
    matches = (re.match(r"Segment(\d+)_", key) for key in header)
    numbers = sorted({int(match[1]) for match in matches if match})
    found = []
    for place, number in enumerate(numbers):
        own = {key: header.get(f"Segment{number}_{key}") for key in ("Name", "ID", "Layer", "LabelValue", "Extent")}
        layer = int(own["Layer"]) if own["Layer"] else place if layers > 1 else 0
        value = int(own["LabelValue"]) if own["LabelValue"] else None
        name = own["Name"] or own["ID"] or ""
        if layer >= layers or (value is None and layers == 1 and len(numbers) > 1):
            raise CaseError(f"the file does not say which voxels are segment {name!r}", file=path)
        extent = _numbers(own["Extent"] or "")
        shifted = tuple(end - int(start[axis // 2]) for axis, end in enumerate(extent))
        found.append(Segment(name, layer, value, shifted if len(extent) == 6 else None))
    return found


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]
