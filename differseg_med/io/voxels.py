"""Voxels of NIfTI, NRRD and MetaImage files, held against the checksums that the files carry."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from differseg_med.errors import CaseError, private, without_folders
from differseg_med.geometry import Grid, same_grid
from differseg_med.io.budget import SPARE_BYTES, unpack
from differseg_med.io.headers import VolumeHeader, itk_affine
from differseg_med.io.nifti_header import NiftiHeader
from differseg_med.io.text_headers import TextHeader, read_text_header

_LONGEST_WORD = 32
"""Characters of a number that is written as a word, with the space behind it."""


def read_voxels(header: VolumeHeader) -> NDArray[Any]:
    """The voxels ``(i, j, k)`` of a file, in the unit of its values; ``(i, j, k, c)`` of a NIfTI of several volumes.

    Raises:
        CaseError: if the file is damaged.
    """
    if header.nifti is not None:
        return _nifti_voxels(header.nifti, header)
    if header.text is not None and header.text.dtype:
        return _meta_voxels(header.text, header)
    image = read_itk(header.path, header.text)
    voxels: NDArray[Any] = sitk.GetArrayFromImage(image).T
    voxels = voxels.reshape(header.grid.shape, order="A")
    if not same_grid(Grid(voxels.shape, itk_affine(image)), header.grid):  # a mistake of ours, not of the file
        raise CaseError("voxels and header are not in the same place; please report it", file=header.path)
    return voxels


def _nifti_voxels(nifti: NiftiHeader, header: VolumeHeader) -> NDArray[Any]:
    dtype = np.dtype(nifti.fields.get_data_dtype())
    shape = nifti.shape if nifti.channels == 1 else (*nifti.shape, nifti.channels)
    size = math.prod(shape) * dtype.itemsize
    try:
        with nifti.voxels.open("rb") as file:
            if nifti.voxels.name.lower().endswith(".gz"):
                content: Any = memoryview(unpack(file, nifti.offset + size))[nifti.offset :]
            else:
                file.seek(nifti.offset)
                content = bytearray(size)
                if file.readinto(content) < size:
                    raise EOFError("cut short")
                if len(file.read(SPARE_BYTES + 1)) > SPARE_BYTES:
                    raise ValueError("more voxels than the header says")
    except (EOFError, ValueError, zlib.error) as error:
        raise damaged(header.path, error) from error
    stored = np.ndarray(shape, dtype, content, order="F")
    slope, intercept = nifti.fields.get_slope_inter()
    if slope is None:
        return stored
    scaled: NDArray[Any] = apply_read_scaling(stored, np.float64(slope), np.float64(intercept))
    return scaled


def _meta_voxels(text: TextHeader, header: VolumeHeader) -> NDArray[Any]:
    """Those of a MetaImage: ITK would write words of its own to the terminal where the file is damaged."""
    try:
        with text.voxels.open("rb") as file:
            file.seek(text.start)
            if text.as_words:
                words = file.read(_LONGEST_WORD * math.prod((*text.shape, text.components))).split()
                values = np.array(words, np.float64).astype(text.dtype)
            else:
                content = unpack(file, text.size) if text.packed else bytearray(file.read(text.size))
                values = np.frombuffer(content, text.dtype)
        return values.reshape(header.grid.shape, order="F")
    except (EOFError, ValueError, zlib.error) as error:
        raise damaged(header.path, error) from error


def check_body(header: VolumeHeader) -> None:
    """Compare the checksums of a compressed file without keeping its voxels.

    Raises:
        CaseError: if the file is damaged.
    """
    if header.nifti is not None:
        nifti = header.nifti
        size = nifti.offset + math.prod((*nifti.shape, nifti.channels, nifti.fields.get_data_dtype().itemsize))
        file, start, packed = nifti.voxels, 0, nifti.voxels.name.lower().endswith(".gz")
    else:
        assert header.text is not None
        file, start, size = header.text.voxels, header.text.start, header.text.size
        packed = header.text.packed in _TRAILERS
    if not packed:
        return
    try:
        with file.open("rb") as content:
            content.seek(start)
            unpack(content, size, keep=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(header.path, error) from error


def read_itk(path: Path, text: TextHeader | None = None) -> sitk.Image:
    """Read an NRRD or MetaImage file with SimpleITK, which does not compare checksums itself.

    Args:
        path: the file.
        text: its header, if it has been read.

    Raises:
        CaseError: if the header is refused, or the file is damaged.
    """
    text = text or read_text_header(path)
    try:
        image = sitk.ReadImage(str(path))
        if text.packed in _TRAILERS:
            _check_sums(text, image)
    except (RuntimeError, OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, error) from error
    return image


def _check_sums(text: TextHeader, image: sitk.Image) -> None:
    """Hold the voxels in memory against the checksum behind the compressed ones; where they differ, unpack again.

    They also differ if ITK moved the axis of components, or the data has several members: that is no damage.

    Raises:
        EOFError, ValueError, zlib.error: if the compressed data does not fit its checksum.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    content = np.ascontiguousarray(voxels.byteswap() if text.swapped else voxels).data.cast("B")
    length, form, summed = _TRAILERS[text.packed]
    with text.voxels.open("rb") as file:
        file.seek(-min(length, text.voxels.stat().st_size), 2)
        if file.read() == struct.pack(form, *summed(content)):
            return
        file.seek(text.start)
        unpack(file, text.size, keep=False)


_TRAILERS: dict[str, tuple[int, str, Callable[[memoryview], tuple[int, ...]]]] = {
    "gzip": (8, "<II", lambda content: (zlib.crc32(content), content.nbytes & 0xFFFFFFFF)),
    "zlib": (4, ">I", lambda content: (zlib.adler32(content),)),
}
"""Bytes, form and numbers at the end of compressed data."""


def damaged(path: Path, error: Exception) -> CaseError:
    """The error for a file that a library cannot read, or that does not fit its checksum."""
    return CaseError(
        "the file cannot be read; it is damaged, cut short or not an image",
        file=path,
        found=_cause(error, path),
        remedy="Copy or convert it again from the source.",
    )


def _cause(error: BaseException, path: Path) -> str:
    """The line of the innermost cause that says most, without folders (they may hold names)."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).replace(str(path), path.name).replace(str(path.parent), "").strip().split("\n")
    lines = [line.replace(path.name, private(path.name, "the file")) for line in lines]
    text = re.sub(r"\(0x\w+\)", "", lines[-1 if "SimpleITK" in lines[0] else 0])  # ITK begins with its own source file
    return f"{type(error).__name__}: {without_folders(text)}"[:200]
