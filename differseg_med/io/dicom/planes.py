"""One image plane of a DICOM series: a classic file, or a frame of an enhanced multi-frame one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.geometry import ALMOST_SAME_VOXELS, FARTHEST_MM, MIN_SPACING_MM, SHEAR_DEGREES
from differseg_med.io.dicom.files import Header

UNIT_TOLERANCE = 1e-3
"""How far the length of a direction vector may be from 1."""

MAX_SIDE = 2**15
"""Most rows or columns of a credible image: a damaged header must not make us ask for gigabytes."""

_NO_GEOMETRY = "Export the series again with its geometry; screenshots and reports have none."
_VFRAME = "It holds all slices of a volume side by side, as United Imaging stores them: convert it with dcm2niix."


@dataclass(frozen=True)
class Frame:
    """A plane with its attributes: those of the file, overlaid with those of its own functional groups."""

    header: Header
    number: int
    tags: Mapping[str, Any]

    @property
    def name(self) -> str:
        """File name, and the frame's number counted from 1 if there are several."""
        return f"{self.header.source.name} frame {self.number + 1}" if self.header.frames else self.header.source.name


@dataclass(frozen=True, eq=False)
class Plane:
    """Where the pixels of a frame are: PS3.3 C.7.6.2.1.1, in mm, LPS.

    Args:
        orientation: (2, 3), unit vectors along a row and along a column.
        position: (3,), center of the first pixel.
        spacing: distance of rows, distance of columns.
        shape: rows, columns.
    """

    orientation: NDArray[np.float64]
    position: NDArray[np.float64]
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector (3,) along which slices are sorted."""
        normal = np.cross(self.orientation[0], self.orientation[1])
        return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)

    def parallel(self, other: Plane) -> bool:
        """Whether both are slices of one stack: same matrix, spacing and orientation, within a fraction of a pixel."""
        if self.shape != other.shape:
            return False
        largest = ALMOST_SAME_VOXELS / max(self.shape)
        turned = np.abs(self.orientation - other.orientation).max()
        scaled = max(abs(a / b - 1) for a, b in zip(self.spacing, other.spacing))
        return bool(turned <= largest and scaled <= largest)


def frames_of(header: Header) -> list[Frame]:
    """The planes of one file.

    Raises:
        CaseError: for a multi-frame image that does not say where its frames are.
    """
    count = header.tags.get("NumberOfFrames", 1)
    if header.frames:
        if count != len(header.frames):
            raise CaseError(
                "the multi-frame image does not describe each of its frames",
                file=header.source.path,
                expected=f"{count} frames",
                found=f"positions of {len(header.frames)}",
                remedy="Export the series again.",
            )
        return [Frame(header, number, header.tags | groups) for number, groups in enumerate(header.frames)]
    if count != 1:
        raise CaseError(
            "the multi-frame image does not say where its frames are in the patient",
            file=header.source.path,
            expected="ImagePositionPatient per frame (functional groups)",
            remedy="Export the series again, as classic single-frame images if the archive offers that.",
        )
    return [Frame(header, 0, header.tags)]


def plane_of(frame: Frame) -> Plane:
    """The geometry of a frame.

    Raises:
        CaseError: naming the file and the attribute that is missing or impossible.
    """
    orientation = _numbers(frame, "ImageOrientationPatient", 6).reshape(2, 3)
    position = _numbers(frame, "ImagePositionPatient", 3)
    between_rows, between_columns = _numbers(frame, "PixelSpacing", 2).tolist()
    rows, columns = frame.tags.get("Rows", 0), frame.tags.get("Columns", 0)
    if not all(isinstance(n, int) and 0 < n <= MAX_SIDE for n in (rows, columns)):
        raise _impossible(frame, "Rows and Columns", (rows, columns))
    lengths = np.linalg.norm(orientation, axis=1)
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE:
        raise _impossible(frame, "ImageOrientationPatient", f"directions of length {lengths.round(4).tolist()}, not 1")
    orientation /= lengths[:, None]  # rounded numbers must not change the spacing
    if abs(orientation[0] @ orientation[1]) > np.sin(np.radians(SHEAR_DEGREES)):
        raise _impossible(frame, "ImageOrientationPatient", "rows and columns that are not at right angles")
    if min(between_rows, between_columns) < MIN_SPACING_MM or np.abs(position).max() > FARTHEST_MM:
        raise _impossible(frame, "PixelSpacing or ImagePositionPatient", [between_rows, between_columns, *position])
    return Plane(orientation, position, (between_rows, between_columns), (rows, columns))


def _numbers(frame: Frame, keyword: str, count: int) -> NDArray[np.float64]:
    value = frame.tags.get(keyword)
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if value is None:
        raise CaseError(
            f"{keyword} is missing in {frame.name}: without it nobody knows where the voxels are in the patient",
            file=frame.header.source.path if not frame.header.source.members else frame.header.source.name,
            remedy=_VFRAME if "VFRAME" in (frame.tags.get("ImageType") or ()) else _NO_GEOMETRY,
        )
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise _impossible(frame, keyword, value)
    return numbers


def _impossible(frame: Frame, what: str, found: object) -> CaseError:
    return CaseError(f"{what} cannot be right in {frame.name}", file=frame.header.source.path, found=found)
