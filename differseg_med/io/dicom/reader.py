"""A cell of the cohort table as a volume: a DICOM file, a folder or a zip archive, and which series of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, ensure_tuple
from numpy.typing import NDArray

from differseg_med.errors import CaseError, private
from differseg_med.geometry import Grid
from differseg_med.io.dicom.cells import RESAMPLE, split_cell
from differseg_med.io.dicom.files import DicomFile, Header, Skipped, read_headers, sources
from differseg_med.io.dicom.index import image_series, kind_of, shared_uid
from differseg_med.io.dicom.mosaic import read_mosaic
from differseg_med.io.dicom.pet import is_pet, suv_factors
from differseg_med.io.dicom.pixels import read_frames
from differseg_med.io.dicom.resampling import resample_stack
from differseg_med.io.dicom.series import MAX_SERIES_VOXELS, Part, series_parts
from differseg_med.keys import NOTES

ENDINGS = (".dcm", ".dicom", ".ima", ".zip")
_NAMED = 12
NO_IMAGE = {"seg": "a SEG, which can be a label", "rtstruct": "an RTSTRUCT, which can be a label", "other": "a report"}
"""What to call the kinds of `kind_of` that are no image."""

_NOT_DICOM = "Of other images (NIfTI, NRRD, MHA), name the file itself."


@dataclass(frozen=True, eq=False)
class Volume:
    """A series as voxels.

    Args:
        data: ``(i, j, k)``: column, row, slice, in real units (HU for CT, SUV by body weight for PET).
        grid: where they are, RAS.
        notes: remarks for the report.
    """

    data: NDArray[np.float32]
    grid: Grid
    notes: tuple[str, ...] = ()


def is_dicom(cell: str | Path) -> bool:
    """Whether a cell names a folder, an archive or a file that begins like DICOM."""
    path, _ = split_cell(cell)
    if path.is_dir() or path.suffix.lower() in ENDINGS:
        return True
    if not path.is_file():  # a pipe would never answer
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_volume(cell: str | Path) -> Volume:
    """Read the volume that a cell names.

    Args:
        cell: ``PATH``, ``PATH::UID``, ``PATH::UID#K`` or, of a path with one series, ``PATH::#K``; with ``+resample``
            at the end, tilted or uneven slices are interpolated.

    Raises:
        CaseError: if the cell names no volume or several, or the volume cannot be had as it was acquired.
    """
    part, notes, resample = find_part(cell)
    if part.mosaic:
        return Volume(read_mosaic(part.frames[0].header), _grid(part), notes)
    if part.problem is not None and not (resample and part.interpolable):
        raise part.problem
    rows, columns = part.frames[0].tags["Rows"], part.frames[0].tags["Columns"]
    if rows * columns * len(part.frames) > MAX_SERIES_VOXELS:
        raise CaseError("the volume is too large", file=split_cell(cell)[0])
    data = np.empty((columns, rows, len(part.frames)), dtype=np.float32)
    for index, pixels in read_frames(part.frames):
        data[:, :, index] = pixels.T
    if is_pet(part.frames[0].tags):
        factors, how = suv_factors(part.frames)
        data *= np.array(factors)
        notes = (*notes, *how)
    if part.problem is not None and part.stack is not None:
        data, grid, note = resample_stack(data, part.stack)
        return Volume(data, grid, (*notes, note))
    return Volume(data, _grid(part), notes)


def read_grid(cell: str | Path) -> Grid:
    """The grid of the volume that a cell names, from its headers.

    Raises:
        CaseError: as `read_volume`.
    """
    part, _, resample = find_part(cell)
    return read_volume(cell).grid if part.problem is not None and resample else _grid(part)


def find_part(cell: str | Path) -> tuple[Part, tuple[str, ...], bool]:
    """The one part of a series that a cell names, remarks, and whether resampling is asked for.

    Raises:
        CaseError: if there is none or more than one; the choice is listed.
    """
    path, selector = split_cell(cell)
    resample = selector.endswith(RESAMPLE)
    uid, _, number = selector.removesuffix(RESAMPLE).partition("#")
    headers, skipped = scan(path)
    others = [NO_IMAGE[kind] for header in headers if (kind := kind_of(header)) != "image"]
    own = _chosen_series(path, uid, image_series(headers), [*others, *(item.reason for item in skipped)])
    parts = series_parts(own)
    part = _chosen_part(path, number, parts, own[0])
    bad = sum(item.damaged for item in skipped)
    notes = part.doubts + part.notes + ((f"{bad} damaged DICOM files beside it could not be read",) if bad else ())
    return part, notes, resample


def _chosen_series(
    path: Path, uid: str, series: dict[tuple[str, ...], list[Header]], others: Sequence[str]
) -> list[Header]:
    fitting = [key for key in series if not uid or key[0] == uid]
    if len(fitting) == 1:
        return series[fitting[0]]
    if len(fitting) > len({key[0] for key in fitting}):
        raise shared_uid(path)
    choice = [f"{key[0] or 'no UID'} ({_words(headers)})" for key, headers in sorted(series.items())]
    listed = "; ".join(choice[:_NAMED]) + (f" and {len(choice) - _NAMED} more" if len(choice) > _NAMED else "")
    listed = listed and private(listed, f"{len(series)} series, which --verbose-paths lists")
    if uid:
        found = listed or "no DICOM image"
        raise CaseError(
            "there is no such series here", file=path, expected=private(uid, "a series of this UID"), found=found
        )
    if not series:
        found = "; ".join(sorted(set(others))[:3]) or "nothing"
        raise CaseError("there is no DICOM image here", file=path, found=found, remedy=_NOT_DICOM)
    raise CaseError(
        f"there are {len(series)} series here",
        file=path,
        found=listed,
        remedy="Name one after the path: PATH::SeriesInstanceUID.",
    )


def _chosen_part(path: Path, number: str, parts: Sequence[Part], header: Header) -> Part:
    if number and not (re.fullmatch(r"[0-9]{1,6}", number) and 1 <= int(number) <= len(parts)):
        raise CaseError("there is no such part of the series", file=path, expected=f"#1 to #{len(parts)}", found=number)
    if number or len(parts) == 1:
        return parts[int(number or 1) - 1]
    uid = header.tags.get("SeriesInstanceUID", "")
    listed = "; ".join(
        f"#{index} {part.what}{' (cannot be used)' if part.problem else ''}"
        for index, part in enumerate(parts[:_NAMED], 1)
    )
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    raise CaseError(
        f"the series holds {len(parts)} volumes",
        file=path,
        found=listed + more,
        remedy=f"Name one after the path: PATH::{private(uid, 'UID')}#1.",
    )


def _words(headers: Sequence[Header]) -> str:
    tags = headers[0].tags
    words = [tags.get("Modality"), tags.get("SeriesDescription"), f"{len(headers)} files"]
    return ", ".join(str(word) for word in words if word)


def _grid(part: Part) -> Grid:
    if part.problem is not None:
        raise part.problem
    assert part.grid is not None
    return part.grid


def scan(path: Path) -> tuple[list[Header], list[Skipped]]:
    """Headers in a file, folder or archive; read again only if something in it has changed.

    Raises:
        CaseError: if there is no such file or folder.
    """
    return _scanned(str(path), series_stamp(path))


@lru_cache(maxsize=8)
def _scanned(path: str, stamp: tuple[int, ...]) -> tuple[list[Header], list[Skipped]]:
    return read_headers(Path(path))


def series_stamp(cell: str | Path) -> tuple[int, ...]:
    """Number, newest time and total size of the files of a cell, which change when its content does."""
    path, _ = split_cell(cell)
    if not path.exists():
        return ()
    if path.is_file():
        return 1, path.stat().st_mtime_ns, path.stat().st_size
    count = newest = total = 0
    for source in sources(path):
        if isinstance(source, DicomFile):
            stat = source.path.stat()
            count, newest, total = count + 1, max(newest, stat.st_mtime_ns), total + stat.st_size
    return count, newest, total


class DicomReader(ImageReader):
    """MONAI image reader for DICOM files, folders and zip archives, and cells ``PATH::SELECTOR``; RAS affine out.

    Unlike MONAI's own reader it never invents a geometry: what is no regular volume is refused.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether this is DICOM, by its content."""
        return is_dicom(str(ensure_tuple(filename)[0]))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Volume:
        """Read one cell; see `read_volume`."""
        return read_volume(str(ensure_tuple(data)[0]))

    def get_data(self, img: Volume) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the voxels ``(i, j, k)`` and the RAS affine."""
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: np.array(img.grid.affine),
            MetaKeys.ORIGINAL_AFFINE: np.array(img.grid.affine),
            MetaKeys.SPATIAL_SHAPE: np.asarray(img.grid.shape),
            MetaKeys.SPACE: "RAS",
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            NOTES: list(img.notes),
        }
        return img.data, meta
