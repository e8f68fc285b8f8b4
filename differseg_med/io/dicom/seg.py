"""DICOM SEG as masks, through highdicom, on the grid that the SEG itself has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, lps_to_ras
from differseg_med.io.dicom.files import Header, opened, quiet, read_dataset
from differseg_med.io.dicom.names import Named, choose, split_least
from differseg_med.io.dicom.pixels import check_budget, check_codec
from differseg_med.io.dicom.planes import MAX_SIDE
from differseg_med.io.dicom.seg_encodings import as_native
from differseg_med.io.dicom.series import MAX_SERIES_VOXELS

FRACTION = 0.5
"""Share of a voxel or probability from which on a FRACTIONAL segment covers it, unless the selector says another."""


STEP_TOLERANCE = 1e-3
"""How far two statements on the distance of slices may differ, as a share of it."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments of a SEG as one mask.

    Args:
        mask: ``(i, j, k)``: column, row, slice.
        grid: where it is, RAS.
        gap_mm: thickness of the slices, if they do not touch and the SEG does not say their distance: it may have left
            out empty ones between them. 0 otherwise.
        notes: remarks for the report.
    """

    mask: NDArray[np.bool_]
    grid: Grid
    gap_mm: float
    notes: tuple[str, ...] = ()

    @property
    def incomplete(self) -> bool:
        """Whether slices may be left out, or there is one only: highdicom writes 1 mm as the distance of its next."""
        return self.gap_mm > 0 or self.grid.shape[2] == 1


def has_no_frames(header: Header) -> bool:
    """Whether a SEG holds no frame at all: some programs write one for an image without findings."""
    return not header.frames and not header.tags.get("NumberOfFrames")


def chosen_names(header: Header, selector: str) -> str:
    """The labels of the chosen segments.

    Raises:
        CaseError: if there is no such segment; the labels are listed.
    """
    return ", ".join(name for _, name in _chosen(header, _fraction(header, selector)[0]))


def _chosen(header: Header, selector: str) -> list[Named]:
    # Number 0 is the background of a LABELMAP.
    segments = [item for item in header.tags.get("segments", ()) if item[0] != 0]
    return choose(selector, segments, "segment", header.source.path)


def read_segments(header: Header, selector: str) -> Segments:
    """Read segments of a SEG (BINARY, FRACTIONAL or LABELMAP).

    Args:
        header: of the SEG.
        selector: segment label or number, or several with commas; may be empty if there is one segment. Of a
            FRACTIONAL one ``>=0.3`` may follow: the share of a voxel, or the probability, that is enough.

    Raises:
        CaseError: if there is no such segment (the labels are listed), or the frames are no regular volume.
    """
    from highdicom.seg import Segmentation  # a second that nobody without a SEG should wait

    file = header.source.path
    selector, fraction, notes = _fraction(header, selector)
    chosen = _chosen(header, selector)
    _check_frames(header)
    try:
        with quiet():
            for _, stream in opened([header.source]):
                check_budget(header, stream)
                dataset = as_native(read_dataset(stream, pixels=True))
                check_codec(str(dataset.file_meta.TransferSyntaxUID), header)
                _fill_thickness(dataset)
                seg = Segmentation.from_dataset(dataset, copy=False)
                geometry = seg.get_volume_geometry()
                if geometry is None:
                    raise _irregular(header)
                if np.prod(geometry.spatial_shape, dtype=np.float64) > MAX_SERIES_VOXELS:
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
    mask: NDArray[np.bool_] = np.any(array >= fraction if fraction else array > 0, axis=-1)
    affine = np.array(volume.affine)[:, [2, 1, 0, 3]]  # highdicom counts slice, row, column
    columns_first = np.ascontiguousarray(mask.transpose(2, 1, 0))
    if np.linalg.det(affine[:3, :3]) < 0:  # from first to last slice along the normal, as volumes are read
        affine = affine @ from_matvec(np.diag([1, 1, -1]), [0, 0, columns_first.shape[2] - 1])
        columns_first = columns_first[:, :, ::-1]
    grid = Grid(columns_first.shape, lps_to_ras(affine))
    return Segments(columns_first, grid, _gap_mm(seg, grid), notes)


def _check_frames(header: Header) -> None:
    """Refuse a SEG whose header cannot be right, before its pixels are read."""
    file = header.source.path
    if not all(0 < header.tags.get(name, 0) <= MAX_SIDE for name in ("Rows", "Columns")):
        raise CaseError("Rows and Columns cannot be right", file=file)
    if header.tags.get("NumberOfFrames", 1) != len(header.frames) or header.tags.get("SamplesPerPixel", 1) != 1:
        raise CaseError("the DICOM SEG does not describe each of its frames", file=file)
    if header.tags["Rows"] * header.tags["Columns"] * len(header.frames) > MAX_SERIES_VOXELS:
        raise CaseError("the SEG is too large", file=file, found=f"{len(header.frames)} frames")
    if not all("ImagePositionPatient" in frame for frame in header.frames):
        raise CaseError(
            "the DICOM SEG has no place in the patient",
            file=file,
            expected="ImagePositionPatient of each frame",
            remedy="Segmentations of X-ray images and of slides cannot be used; else export it again.",
        )


def _fraction(header: Header, selector: str) -> tuple[str, float, tuple[str, ...]]:
    """The selector's name; the share of a voxel that is enough, 0 if the segments have no shares; notes."""
    if header.tags.get("SegmentationType") != "FRACTIONAL":
        return selector, 0.0, ()
    name, fraction = split_least(selector)
    if fraction is None:
        return name, FRACTION, (f"fractional segment, cut at {FRACTION:g}",)
    if not 0 < fraction <= 1:
        expected = "more than 0, at most 1"
        raise CaseError("no such share", file=header.source.path, expected=expected, found=f"{fraction:g}")
    return name, fraction, ()


def _fill_thickness(dataset: FileDataset) -> None:
    """Give a SEG without SliceThickness, on which highdicom insists, the distance of its slices, or an empty one."""
    for groups in (*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence):
        for measures in groups.get("PixelMeasuresSequence") or ():
            measures.setdefault("SliceThickness", measures.get("SpacingBetweenSlices"))


def _gap_mm(seg: Any, grid: Grid) -> float:
    measures = seg.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    if not measures or measures[0].get("SpacingBetweenSlices"):
        return 0.0
    thickness = float(measures[0].get("SliceThickness") or 0)
    return thickness if thickness < (1 - STEP_TOLERANCE) * grid.spacing_mm[2] else 0.0


def with_gaps(segments: Segments) -> tuple[NDArray[np.bool_], Grid]:
    """The mask with the slices that the SEG seems to have left out, if they are as far apart as they are thick."""
    mask, grid = segments.mask, segments.grid
    ratio = grid.spacing_mm[2] / segments.gap_mm if segments.gap_mm else 1.0
    times = round(ratio)
    if times < 2 or abs(ratio - times) > STEP_TOLERANCE:
        return mask, grid
    full = np.zeros((*mask.shape[:2], (mask.shape[2] - 1) * times + 1), dtype=np.bool_)
    full[:, :, ::times] = mask
    return full, Grid(full.shape, grid.affine @ np.diag([1, 1, 1 / times, 1]))


def _irregular(header: Header) -> CaseError:
    return CaseError(
        "the frames of the DICOM SEG are no regular volume",
        file=header.source.path,
        remedy="Export it again on the grid of its image, for example from 3D Slicer.",
    )
