"""Reading volumes, with errors that a clinician can act on."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor, NibabelReader
from monai.transforms import LoadImage
from monai.utils import MetaKeys, ensure_tuple

from differseg_med.errors import CaseError, without_folders
from differseg_med.geometry import Grid, affine_from_itk
from differseg_med.io.dicom.cells import SEPARATOR, split_cell
from differseg_med.io.dicom.reader import DicomReader, is_dicom, read_grid
from differseg_med.io.headers import NIFTI, VOLUMES, header_grid, is_volume_file
from differseg_med.io.images2d import FOREGROUNDS, IMAGES, PillowReader, as_mask, is_image, split_foreground

OTHER = tuple(ending for ending in VOLUMES if ending not in NIFTI)


class SimpleITKReader(ImageReader):
    """MONAI image reader for NRRD and MetaImage volumes, through SimpleITK (LPS files, RAS affine out)."""

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether the file's ending is one of `OTHER`."""
        return str(ensure_tuple(filename)[0]).lower().endswith(OTHER)  # MONAI's loader always gives a tuple

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> sitk.Image:
        """Read one file."""
        image = sitk.ReadImage(str(ensure_tuple(data)[0]))
        if image.GetDimension() != 3:
            raise CaseError(
                "not one 3-D volume",
                file=ensure_tuple(data)[0],
                expected="one volume of three axes",
                found=f"{image.GetDimension()} axes",
            )
        return image

    def get_data(self, img: sitk.Image) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the voxels ``(i, j, k)``, or ``(c, i, j, k)`` if they have several values, and the RAS affine."""
        array = sitk.GetArrayFromImage(img).T
        affine = affine_from_itk(img.GetSpacing(), img.GetOrigin(), img.GetDirection())
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(img.GetSize()),
            MetaKeys.SPACE: "RAS",
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if img.GetNumberOfComponentsPerPixel() > 1 else float("nan"),
        }
        return array, meta


_READERS = (SimpleITKReader(), NibabelReader(), PillowReader(), DicomReader())


def load_volume(cell: str | Path, *, mask: bool = False) -> MetaTensor:
    """Load one volume ``(1, H, W, D)`` float32 with its RAS affine.

    2-D images become ``(C, H, W, 1)``, see `differseg_med.io.images2d`. What the reader of DICOM has to remark is
    in ``meta["notes"]``.

    Args:
        cell: ``PATH`` or ``PATH::SELECTOR``.
        mask: whether it is a mask, which 2-D images do not say themselves: black and white become 0 and 1.

    Raises:
        CaseError: naming the file: missing, unknown ending, unreadable (truncated), not one 3-D volume, voxels that
            are not finite; for a mask also a 2-D image that is not black and white.
    """
    path, foreground = split_foreground(Path(cell))
    _check_file(path)
    try:
        # Only the reader that is meant for a file tries it: the error is then about the file, not about the readers.
        reader = next(reader for reader in _READERS if reader.verify_suffix([path]))
        with _quiet_readers():
            load = LoadImage(image_only=True, ensure_channel_first=True, simple_keys=True)
        volume: MetaTensor = load(path, reader=reader)
    except CaseError:
        raise
    except Exception as error:  # every reader has errors of its own; the cause goes into ours
        raise CaseError(
            "the file cannot be read; it is damaged, cut short or not an image",
            file=path,
            found=_cause(error, path),
            remedy="Copy or convert it again from the source.",
        ) from error
    _check_volume(volume, path)
    if is_image(path) and (mask or foreground):
        return as_mask(volume, foreground or FOREGROUNDS[0])
    return volume


def _check_volume(volume: MetaTensor, path: Path) -> None:
    if not is_image(path) and (volume.ndim != 4 or volume.shape[0] != 1):
        shape = tuple(volume.shape[1:]) + ((volume.shape[0],) if volume.shape[0] != 1 else ())
        raise CaseError(
            "not one 3-D volume",
            file=path,
            expected="one volume of three axes",
            found=f"shape {shape}",
            remedy="Store each sequence or time point as a file of its own.",
        )
    bad = int((~torch.isfinite(volume)).sum())
    if bad:
        raise CaseError(
            "voxels without a number (NaN or infinite)",
            file=path,
            found=f"{bad} of {volume.numel()} voxels",
            remedy="Export the image again, or set them to the background's value.",
        )


@contextmanager
def _quiet_readers() -> Iterator[None]:
    """MONAI's loader warns once per instance that a GPU decoder for DICOM, which is not used here, is missing."""
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    plugin.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            yield
    finally:
        plugin.setLevel(level)


def load_mask(cell: str | Path) -> MetaTensor:
    """Load one mask ``(1, H, W, D)``: as `load_volume`, and black and white 2-D images as 0 and 1.

    Raises:
        CaseError: as `load_volume`.
    """
    return load_volume(cell, mask=True)


def file_grid(cell: str | Path) -> Grid:
    """The grid of an image, from its header where that is enough.

    Raises:
        CaseError: as `load_volume`.
    """
    path = Path(cell)
    if is_dicom(cell):
        return read_grid(cell)
    if is_volume_file(path) and path.is_file():
        with suppress(CaseError, ValueError):  # what is wrong with the file, loading says better
            return header_grid(path)
    volume = load_volume(cell)
    return Grid(volume.shape[1:], np.asarray(volume.affine))


def _check_file(cell: Path) -> None:
    if is_dicom(cell):
        return
    path, selector = split_cell(cell)
    if not path.is_file():
        raise CaseError("there is no such file", file=path, remedy="Check the path in the cohort table.")
    if selector:
        raise CaseError(
            f"only DICOM has several images of which one is chosen with {SEPARATOR}",
            file=path,
            found=f"{SEPARATOR}{selector}",
        )
    known = (*VOLUMES, *IMAGES, "a DICOM file or folder")
    if not path.name.lower().endswith(known[:-1]):
        raise CaseError(
            "unknown kind of file", file=path, expected=f"one of {', '.join(known)}", found=f"{path.suffix!r}"
        )


def _cause(error: BaseException, path: Path) -> str:
    """The line of the innermost cause that says most, without folders (they may hold names)."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).replace(str(path), path.name).replace(str(path.parent), "").strip().split("\n")
    text = re.sub(r"\(0x\w+\)", "", lines[-1 if "SimpleITK" in lines[0] else 0])  # ITK begins with its own source file
    return f"{type(error).__name__}: {without_folders(text)}"[:200]
