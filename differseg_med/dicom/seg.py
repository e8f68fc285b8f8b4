"""DICOM SEG as masks, through highdicom, on the grid that the SEG itself has."""

from __future__ import annotations

from typing import Any

import numpy as np
from highdicom.seg import Segmentation
from nibabel.affines import from_matvec
from numpy.typing import NDArray

from differseg_med.dicom.files import Header, opened, quiet, read_dataset
from differseg_med.dicom.names import choose
from differseg_med.dicom.pixels import check_codec
from differseg_med.dicom.planes import MAX_SIDE
from differseg_med.dicom.seg_encodings import as_native
from differseg_med.dicom.series import MAX_VOXELS
from differseg_med.errors import CaseError
from differseg_med.geometry import FloatArray, Grid, lps_to_ras

FRACTION = 0.5
"""Share of a voxel or probability from which on a FRACTIONAL segment covers it."""


def read_segments(header: Header, selector: str) -> tuple[NDArray[np.bool_], Grid, tuple[str, ...]]:
    """Read segments of a SEG (BINARY, FRACTIONAL or LABELMAP).

    Args:
        header: of the SEG.
        selector: segment label or number, or several with commas; may be empty if there is one segment.

    Returns:
        The mask ``(i, j, k)``: column, row, slice; its grid, RAS; notes. Slices that the SEG leaves out are empty.

    Raises:
        CaseError: if there is no such segment (the labels are listed), or the frames are no regular volume.
    """
    file = header.source.path
    # Number 0 is the background of a LABELMAP.
    chosen = choose(selector, [item for item in header.tags.get("segments", ()) if item[0] != 0], "segment", file)
    if not all(0 < header.tags.get(name, 0) <= MAX_SIDE for name in ("Rows", "Columns")):
        raise CaseError("Rows and Columns cannot be right", file=file)
    if header.tags.get("NumberOfFrames", 1) != len(header.frames) or header.tags.get("SamplesPerPixel", 1) != 1:
        raise CaseError("the DICOM SEG does not describe each of its frames", file=file)
    try:
        with quiet():
            for _, stream in opened([header.source]):
                dataset = as_native(read_dataset(stream, pixels=True))
                check_codec(str(dataset.file_meta.TransferSyntaxUID), header)
                seg = Segmentation.from_dataset(dataset, copy=False)
                geometry = seg.get_volume_geometry()
                if geometry is None:
                    raise _irregular(header)
                if np.prod(geometry.spatial_shape, dtype=np.float64) > MAX_VOXELS:
                    raise CaseError("the SEG is too large", file=file, found=f"{geometry.spatial_shape} voxels")
                volume = seg.get_volume(segment_numbers=[number for number, _ in chosen if number is not None])
    except CaseError:
        raise
    except Exception as error:  # highdicom and pydicom raise whatever damaged content leads to
        raise CaseError(
            "the DICOM SEG cannot be read: damaged, or its frames are no regular volume",
            file=file,
            found=type(error).__name__,
            remedy="Export it again, for example from 3D Slicer.",
        ) from error
    array = np.asarray(volume.array)
    notes = (f"fractional segment, cut at {FRACTION:g}",) if seg.segmentation_type.value == "FRACTIONAL" else ()
    mask: NDArray[np.bool_] = np.any(array >= FRACTION if notes else array > 0, axis=-1)
    affine = np.array(volume.affine)[:, [2, 1, 0, 3]]  # highdicom counts slice, row, column
    columns_first = np.ascontiguousarray(mask.transpose(2, 1, 0))
    if np.linalg.det(affine[:3, :3]) < 0:  # from first to last slice along the normal, as volumes are read
        affine = affine @ from_matvec(np.diag([1, 1, -1]), [0, 0, columns_first.shape[2] - 1])
        columns_first = columns_first[:, :, ::-1]
    return *_filled(columns_first, lps_to_ras(affine), seg), notes


def _filled(mask: NDArray[np.bool_], affine: FloatArray, seg: Any) -> tuple[NDArray[np.bool_], Grid]:
    """Put back empty slices that the SEG leaves out between others and does not say the distance of."""
    measures = seg.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    thickness = float(measures[0].get("SliceThickness") or 0) if measures else 0.0
    step = float(np.linalg.norm(affine[:3, 2]))
    times = round(step / thickness) if thickness > 0 else 1
    if (measures and measures[0].get("SpacingBetweenSlices")) or times < 2 or abs(step / thickness - times) > 1e-3:
        return mask, Grid(mask.shape, affine)
    full = np.zeros((*mask.shape[:2], (mask.shape[2] - 1) * times + 1), dtype=np.bool_)
    full[:, :, ::times] = mask
    affine = affine.copy()
    affine[:3, 2] /= times
    return full, Grid(full.shape, affine)


def _irregular(header: Header) -> CaseError:
    return CaseError(
        "the frames of the DICOM SEG are no regular volume",
        file=header.source.path,
        remedy="Export it again on the grid of its image, for example from 3D Slicer.",
    )
