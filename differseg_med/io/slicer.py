"""Segmentations of 3D Slicer (``.seg.nrrd``) as masks: segments by name, in layers where they overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from differseg_med.errors import CaseError, private
from differseg_med.geometry import Grid
from differseg_med.io.dicom.names import choose
from differseg_med.io.slicer_header import Segment, read_segmentation_header
from differseg_med.io.voxels import read_itk


def read_slicer(path: Path, selector: str) -> tuple[NDArray[np.bool_] | None, Grid | None, tuple[str, ...]]:
    """Read segments of a ``.seg.nrrd`` file, those of old Slicer versions included.

    Args:
        path: the file.
        selector: segment name or number (counted from 1), or several with commas; may be empty if there is one.

    Returns:
        The mask ``(i, j, k)``, its grid, RAS, and notes. The grid may be smaller than the image's. Of a file without
        content (segments that were never painted) no mask, the image's grid if the file keeps it, and a note.

    Raises:
        CaseError: if there is no such segment (the names are listed), or the file is damaged.
    """
    if not path.is_file():
        raise CaseError("there is no such file", file=path, remedy="Check the path in the cohort table.")
    try:
        header = read_segmentation_header(path)
        layers = _layers(read_itk(path))
    except CaseError:
        raise
    except Exception as error:  # SimpleITK raises whatever damaged content leads to
        raise CaseError(
            "the segmentation cannot be read; it is damaged or cut short",
            file=path,
            found=type(error).__name__,
            remedy="Save it again from 3D Slicer.",
        ) from error
    segments = header.segments or _of_values(layers)
    named = [(number, segment.name) for number, segment in enumerate(segments, 1)]
    chosen = choose(selector, named, "segment", path)
    mask, notes = np.zeros(header.grid.shape, dtype=np.bool_), []
    for number, name in chosen:
        assert number is not None
        own, hidden = _voxels(layers, segments[number - 1])
        mask |= own
        if hidden:
            called = private(name, "of the label")
            notes.append(f"{hidden} voxels of segment {called} outside of its extent left out, as in 3D Slicer")
    if not mask.any() and mask.size == 1:  # how 3D Slicer says "nothing": one voxel, and that empty
        names = ", ".join(name for _, name in chosen)
        return None, header.reference, (*notes, f"segment {names} was never painted: taken as empty")
    return mask, header.grid, tuple(notes)


def _layers(image: sitk.Image) -> NDArray[Any]:
    """Voxels (layer, i, j, k): ITK has layers as values of a voxel, or as a fourth axis of old files."""
    voxels = sitk.GetArrayFromImage(image).T
    if image.GetDimension() == 4:
        return np.moveaxis(voxels, -1, 0)
    return voxels if image.GetNumberOfComponentsPerPixel() > 1 else voxels[None]


def _of_values(layers: NDArray[Any]) -> list[Segment]:
    """What a file without descriptions has for segments: its values, or its layers."""
    if len(layers) > 1:
        return [Segment(str(number), number - 1, None, None) for number in range(1, len(layers) + 1)]
    return [Segment(str(value), 0, value, None) for value in np.unique(layers).tolist() if value]


def _voxels(layers: NDArray[Any], segment: Segment) -> tuple[NDArray[np.bool_], int]:
    """The voxels of one segment within its extent, and how many it has outside."""
    layer = layers[segment.layer]
    mask: NDArray[np.bool_] = layer != 0 if segment.value is None else layer == segment.value
    if segment.extent is None:
        return mask, 0
    ends = zip(segment.extent[::2], segment.extent[1::2])
    box = tuple(slice(max(low, 0), max(high + 1, 0)) for low, high in ends)
    clipped = np.zeros_like(mask)
    clipped[box] = mask[box]
    return clipped, int(mask.sum() - clipped.sum())
