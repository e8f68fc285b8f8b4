"""Segmentations of 3D Slicer (``.seg.nrrd``), through slicerio: segments by name, in layers where they overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicerio  # type: ignore[import-untyped]
from numpy.typing import NDArray

from differseg_med.dicom.names import choose
from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, lps_to_ras

ENDINGS = (".seg.nrrd", ".seg.nhdr")


def is_segmentation(path: Path) -> bool:
    """Whether a file is a segmentation of 3D Slicer, by its ending or the names in its header."""
    name = path.name.lower()
    if name.endswith(ENDINGS) or not name.endswith(".nrrd") or not path.is_file():
        return name.endswith(ENDINGS)
    with path.open("rb") as file:
        return b"\nSegment0_" in file.read(4096)


def read_slicer(path: Path, selector: str) -> tuple[NDArray[np.bool_], Grid]:
    """Read segments of a ``.seg.nrrd`` file, those of old Slicer versions included.

    Args:
        path: the file.
        selector: segment name or number (counted from 1), or several with commas; may be empty if there is one.

    Returns:
        The mask ``(i, j, k)`` and its grid, RAS. The grid may be smaller than the image's.

    Raises:
        CaseError: if there is no such segment (the names are listed), or the file is damaged.
    """
    if not path.is_file():
        raise CaseError("there is no such file", file=path, remedy="Check the path in the cohort table.")
    try:
        if b"\nspace: " not in path.read_bytes()[:4096]:
            raise CaseError("the segmentation does not say where it is in the patient (no space)", file=path)
        content = slicerio.read_segmentation(str(path))
        voxels = np.asarray(content["voxels"])
        grid = Grid(voxels.shape[-3:], lps_to_ras(content["ijkToLPS"]))
    except CaseError:
        raise
    except Exception as error:  # slicerio and pynrrd raise whatever damaged content leads to
        raise CaseError(
            "the segmentation cannot be read; it is damaged or cut short",
            file=path,
            found=type(error).__name__,
            remedy="Save it again from 3D Slicer.",
        ) from error
    segments = content.get("segments") or [{"name": str(v), "labelValue": int(v)} for v in np.unique(voxels) if v]
    named = [(number, str(segment.get("name", ""))) for number, segment in enumerate(segments, 1)]
    mask = np.zeros(grid.shape, dtype=np.bool_)
    for number, name in choose(selector, named, "segment", path):
        assert number is not None
        mask |= _segment(voxels, segments[number - 1], number - 1, len(segments), path, name)
    return mask, grid


def _segment(
    voxels: NDArray[Any], segment: dict[str, Any], index: int, count: int, path: Path, name: str
) -> NDArray[np.bool_]:
    """The voxels of one segment within its extent, as 3D Slicer shows it."""
    # Before Slicer 4.11 every segment had a layer of its own, and the value 1.
    layer = segment.get("layer", index if voxels.ndim == 4 else 0)
    value = segment.get("labelValue")
    if (voxels.ndim == 4 and layer >= len(voxels)) or (value is None and voxels.ndim == 3 and count > 1):
        raise CaseError(f"the file does not say which voxels are segment {name!r}", file=path)
    plane = voxels[layer] if voxels.ndim == 4 else voxels
    mask: NDArray[np.bool_] = plane != 0 if value is None else plane == value
    extent = segment.get("extent")
    if extent is None or len(extent) != 6:
        return mask
    box = tuple(slice(max(low, 0), max(high + 1, 0)) for low, high in zip(extent[::2], extent[1::2]))
    clipped = np.zeros_like(mask)
    clipped[box] = mask[box]
    return clipped
