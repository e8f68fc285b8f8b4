"""Reading volumes, with errors that a clinician can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImage
from monai.utils import MetaKeys, ensure_tuple
from numpy.typing import NDArray

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.io.dicom.cells import SEPARATOR, split_cell
from differseg_med.io.dicom.reader import DicomReader, is_dicom, read_grid
from differseg_med.io.headers import CONVERT, LISTED, VOLUMES, VolumeHeader, is_volume_file, read_header
from differseg_med.io.images2d import FOREGROUNDS, IMAGES, PillowReader, as_mask, is_image, split_foreground
from differseg_med.io.voxels import damaged, read_voxels
from differseg_med.keys import NOTES


class VolumeReader(ImageReader):
    """MONAI image reader for NIfTI, NRRD and MetaImage volumes; see `differseg_med.io.headers` for what is refused.

    MONAI's own reader of NIfTI rewrites affines whose distances are not those of pixdim; this one does not.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether the file's ending is one of `VOLUMES`."""
        return is_volume_file(str(ensure_tuple(filename)[0]))  # MONAI's loader always gives a tuple

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[VolumeHeader, NDArray[Any]]:
        """Read header and voxels of one file."""
        header = read_header(Path(str(ensure_tuple(data)[0])))
        return header, read_voxels(header)

    def get_data(self, img: tuple[VolumeHeader, NDArray[Any]]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the voxels ``(i, j, k)`` and the RAS affine."""
        header, voxels = img
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: header.grid.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: header.grid.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(header.grid.shape),
            MetaKeys.SPACE: "RAS",
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        }
        if header.findings:
            meta[NOTES] = header.notes
        # In C order, as MONAI wants it: else it makes another copy.
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused
            return voxels.astype(np.float32, order="C", copy=False), meta


_READERS: tuple[ImageReader, ...] = (VolumeReader(), PillowReader())


def load_volume(cell: str | Path, *, mask: bool = False, gaps: bool = False) -> MetaTensor:
    """Load one volume ``(1, H, W, D)`` float32 with its RAS affine.

    2-D images become ``(C, H, W, 1)``, see `differseg_med.io.images2d`. What there is to remark is in
    ``meta["notes"]``: what is doubtful about the header, how many voxels are without data, what the reader of DICOM
    did.

    Args:
        cell: ``PATH`` or ``PATH::SELECTOR``.
        mask: whether it is a mask: all of its voxels have a number, and a 2-D image, which does not say itself that
            it is one, has black and white become 0 and 1.
        gaps: leave voxels without data as NaN; else they get the lowest value of the image.

    Raises:
        CaseError: naming the file: missing, unknown ending, refused by `read_header`, damaged, or with infinite voxels;
            for a mask also voxels without a number, and a 2-D image that is not black and white.
    """
    path, foreground = split_foreground(Path(cell))
    _check_file(path)
    try:
        # Only the reader that is meant for a file tries it: the error is then about the file, not about the readers.
        readers = (DicomReader(),) if is_dicom(path) else _READERS
        reader = next(reader for reader in readers if reader.verify_suffix([path]))
        with _quiet_readers():
            load = LoadImage(image_only=True, ensure_channel_first=True, simple_keys=True)
        volume: MetaTensor = load(path, reader=reader)
    except CaseError:
        raise
    except Exception as error:  # every reader has errors of its own; the cause goes into ours
        raise damaged(path, error) from error
    volume = _with_known_voxels(volume, path, mask=mask or bool(foreground), gaps=gaps)
    if is_image(path) and (mask or foreground):
        return as_mask(volume, foreground or FOREGROUNDS[0])
    return volume


def _with_known_voxels(volume: MetaTensor, path: Path, *, mask: bool, gaps: bool) -> MetaTensor:
    """Tell of voxels without data, and give them a value unless they shall stay NaN."""
    planes = volume.as_tensor().flatten(0, 1)  # one after the other: of the whole a copy would be made
    if all(bool(torch.isfinite(plane).all()) for plane in planes):
        return volume
    known = torch.isfinite(volume.as_tensor())
    nan = torch.isnan(volume.as_tensor())
    missing, bad = int(nan.sum()), int((~known).sum())
    if mask or missing < bad or not known.any():
        raise CaseError(
            "voxels without a number (NaN or infinite)",
            file=path,
            expected="numbers" if mask or not known.any() else "numbers, or NaN where there is no data",
            found=f"{bad} of {volume.numel()} voxels",
            remedy="Export the image again, or set them to the background's value.",
        )
    share = missing / volume.numel()
    note = f"{missing} voxels ({share:.1%}) are NaN: taken as no data"
    volume.meta[NOTES] = [*volume.meta.get(NOTES, ()), note]
    if not gaps:
        volume[nan] = volume.as_tensor()[known].min()
    return volume


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
    _check_file(path)
    if is_volume_file(path):
        return read_header(path).grid
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
            "unknown kind of file",
            file=path,
            expected=f"one of {', '.join(known)}",
            found=f"{path.suffix!r}",
            remedy=CONVERT if path.name.lower().endswith(LISTED) else None,
        )
