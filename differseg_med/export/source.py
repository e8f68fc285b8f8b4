"""The DICOM images that a mask was drawn on: their headers, slice by slice."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import map_coordinates

from differseg_med.errors import CaseError
from differseg_med.export.segmented import Segmented
from differseg_med.geometry import Grid, affine_from_dicom, almost_same_grid, describe, reordered
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.dicom.files import UnreadableError, opened, quiet, read_dataset
from differseg_med.io.dicom.planes import Plane, plane_of
from differseg_med.io.dicom.reader import find_part, is_dicom
from differseg_med.io.dicom.series import Part

OTHERWISE = "A mask of such an image can be saved as .seg.nrrd or NIfTI."


@dataclass(frozen=True)
class Slice:
    """One plane of the source.

    Args:
        uid: SOP Instance UID of the image.
        number: of the frame in the image, 1 for an image that has no frames.
        plane: where it is.
    """

    uid: str
    number: int
    plane: Plane


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The headers of the images under a mask, without pixels.

    Args:
        datasets: one per slice, or a single multi-frame image.
        slices: in the order of the frames of ``datasets``.
        spacing_mm: (median) distance of neighbouring slices.
        grid: of the volume ``(columns, rows, slices)``, RAS; None if the slices are tilted or unevenly spaced, so that
            masks are drawn on a volume that was resampled.
        places: index of each slice along the third axis of the grid.
    """

    datasets: list[Dataset]
    slices: list[Slice]
    spacing_mm: float
    grid: Grid | None
    places: list[int]

    def frames_of(self, mask: NDArray[np.uint8], grid: Grid) -> tuple[NDArray[np.uint8], list[str]]:
        """Cut a mask into the frames of the source.

        Args:
            mask: ``(H, W, D)`` of 0 and 1.
            grid: its grid: that of the source (axes in any order), or the one that the source was resampled to.

        Returns:
            ``(slices, rows, columns)`` in the order of ``slices``, and notes.

        Raises:
            CaseError: if the mask is on other voxels than the source.
        """
        if self.grid is None:
            frames = np.stack([_cut(mask, grid, piece.plane) for piece in self.slices])
            return frames, ["the series was resampled; its own slices got the nearest voxels of the mask"]
        turned, place = reordered(mask, grid, self.grid)
        if not almost_same_grid(place, self.grid):
            raise CaseError(
                "the mask is not on the voxels of the DICOM series",
                expected=describe(self.grid),
                found=describe(place),
                remedy="Predict on the DICOM series itself, or allow resampling (--resample).",
            )
        return np.ascontiguousarray(turned.transpose(2, 1, 0)[self.places]), []


def source_of(segmented: Segmented, path: Path, what: str = "a DICOM SEG") -> SourceSeries:
    """The series that a mask was drawn on: that of its reference.

    Args:
        segmented: the mask.
        path: the file that is to be written, for messages.
        what: the object that is to be made, for messages.

    Raises:
        CaseError: if the reference is not known, and as `read_source`.
    """
    if segmented.reference not in segmented.images:
        raise CaseError(f"{what} needs the DICOM series that the mask was drawn on", file=path)
    return read_source(segmented.images[segmented.reference], what)


def read_source(cell: str | Path, what: str = "a DICOM SEG") -> SourceSeries:
    """Read the headers of a series.

    Args:
        cell: as in a cohort table: the folder of the series, ``FOLDER::SeriesInstanceUID`` ...
        what: the object that is to be made, for messages.

    Raises:
        CaseError: if this is not DICOM, or the series is no volume.
    """
    path = split_cell(cell)[0]
    if not is_dicom(cell):
        raise CaseError(
            f"{what} refers to the DICOM images under it, and this is none",
            file=path,
            remedy=f"Name the folder of the DICOM series. {OTHERWISE}",
        )
    part, _, resampled = find_part(cell)
    if part.problem is not None and not (resampled and part.stack is not None):
        raise part.problem
    with quiet():
        return _source(part, path, what)


def _source(part: Part, path: Path, what: str) -> SourceSeries:
    headers = list({id(frame.header): frame.header for frame in part.frames}.values())
    datasets: list[Dataset] = []
    for source, file in opened([header.source for header in headers]):
        try:
            datasets.append(read_dataset(io.BytesIO(file.read()), pixels=False, every_tag=True))
        except UnreadableError as error:
            raise CaseError(str(error), file=source.path) from error
    whole = not headers[0].frames or len(part.frames) == len(headers[0].frames)
    if part.mosaic or (headers[0].frames and len(headers) > 1) or not whole:
        stored = "slices side by side in one image (mosaic)" if part.mosaic else "several volumes in multi-frame images"
        raise CaseError(f"{what} cannot be drawn on {stored}", file=path, remedy=OTHERWISE)
    order = np.argsort([frame.number for frame in part.frames], kind="stable")  # as stored in a multi-frame image
    frames = [part.frames[index] for index in order]
    uids = {id(header): str(dataset.SOPInstanceUID) for header, dataset in zip(headers, datasets)}
    slices = [Slice(uids[id(frame.header)], frame.number + 1, plane_of(frame)) for frame in frames]
    return SourceSeries(datasets, slices, _spacing_mm(part), None if part.problem else part.grid, order.tolist())


def _spacing_mm(part: Part) -> float:
    if part.grid is not None:
        return part.grid.spacing_mm[2]
    assert part.stack is not None
    return float(np.median(np.diff(part.stack.positions_mm)))


def _cut(mask: NDArray[np.uint8], grid: Grid, plane: Plane) -> NDArray[np.uint8]:
    """The nearest voxels of a mask ``(rows, columns)`` to the pixels of a plane; 0 outside of its grid."""
    affine = affine_from_dicom(plane.orientation, plane.spacing, plane.position, plane.normal)
    rows, columns = plane.shape
    pixels = Grid((columns, rows, 1), affine)
    at = grid.indices(pixels.world(np.stack(np.meshgrid(range(columns), range(rows), [0], indexing="xy"), axis=-1)))
    cut: NDArray[np.uint8] = map_coordinates(mask, np.moveaxis(at[:, :, 0], -1, 0), order=0, mode="grid-constant")
    return cut
