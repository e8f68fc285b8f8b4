"""Stored pixels as real numbers: decoding, rescaling frame by frame, and limits on what a header may ask for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.config import IGNORE
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ParametricMapStorage,
    RLELossless,
)

from differseg_med.errors import CaseError
from differseg_med.io.dicom.files import Header, UnreadableError, opened, quiet, read_dataset
from differseg_med.io.dicom.planes import MAX_SIDE, Frame

PIXEL_DECODERS = {RLELossless: "pydicom"}
"""Decoders that are preferred: that of pylibjpeg-rle panics at damaged data, which no ``except Exception`` sees."""

FREE_BYTES = 2**26
"""Pixels up to here are decoded whatever the file's size: an empty picture compresses to nothing."""

LARGEST_RATIO = 200
"""How many times as large as their file larger pixels may be: the most that compression makes of real images is 50."""

CODECS = 'pip install "differseg-med[codecs]"'


def check_grey(header: Header) -> None:
    """Refuse images that are no grey values, as far as the header tells.

    Raises:
        CaseError: for colour images and impossible sizes.
    """
    tags, path = header.tags, header.source.path
    photometric, samples = tags.get("PhotometricInterpretation", "MONOCHROME2"), tags.get("SamplesPerPixel", 1)
    if samples != 1 or not str(photometric).startswith("MONOCHROME"):
        raise CaseError(
            "a colour image: its pixels are not measured values",
            file=path,
            expected="MONOCHROME2 with one sample per pixel",
            found=f"{photometric} with {samples}",
            remedy="Choose the original series, not a screenshot or fused image.",
        )
    sides = (tags.get("Rows", 0), tags.get("Columns", 0))
    if not all(isinstance(n, int) and 0 < n <= MAX_SIDE for n in sides):
        raise CaseError("Rows and Columns cannot be right", file=path, found=sides)


def check_budget(header: Header, file: BinaryIO) -> None:
    """Refuse a file whose header promises far more pixels than the file can hold, before anything is decoded.

    Raises:
        CaseError: with both numbers.
    """
    tags = header.tags
    sides = [tags.get(name) for name in ("Rows", "Columns")]
    if not all(isinstance(side, int) for side in sides):
        return
    pixels = int(np.prod([side for side in sides if side], dtype=np.float64)) * max(len(header.frames), 1)
    promised = pixels * int(tags.get("BitsAllocated") or 16) // 8
    stored = file.seek(0, io.SEEK_END)
    file.seek(0)
    if promised > max(FREE_BYTES, LARGEST_RATIO * stored):
        raise CaseError(
            "the header promises more pixels than the file can hold",
            file=header.source.path,
            expected=f"at most {LARGEST_RATIO} times the file's {stored / 1e3:.0f} kB",
            found=f"{promised / 1e6:.0f} MB",
            remedy="The file is damaged, or made to do damage: export the image again.",
        )


def read_frames(frames: Sequence[Frame]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Decode and rescale frames, file by file.

    Args:
        frames: of any files, in any order.

    Yields:
        The index in ``frames`` and the pixels ``(rows, columns)`` in real units (HU for CT).

    Raises:
        CaseError: naming the file that cannot be decoded.
    """
    by_source = sorted(range(len(frames)), key=lambda index: (frames[index].header.source, frames[index].number))
    for source, group in groupby(by_source, key=lambda index: frames[index].header.source):
        indices = list(group)
        header = frames[indices[0]].header
        check_grey(header)
        for _, file in opened([source]):
            check_budget(header, file)
            with quiet():
                try:
                    dataset = read_dataset(file, pixels=True)
                except UnreadableError as error:
                    raise CaseError(str(error), file=source.path, found=source.name) from error
                if "ModalityLUTSequence" in dataset:
                    raise CaseError("the image has a table of values instead of RescaleSlope", file=source.path)
                numbers = [frames[index].number for index in indices]
                for index, pixels in zip(indices, decode(dataset, header, numbers)):
                    frame = frames[index]
                    expected = (frame.tags.get("Rows"), frame.tags.get("Columns"))
                    if pixels.shape != expected:
                        raise CaseError(
                            "the image does not have the size that its header says",
                            file=source.path,
                            expected=expected,
                            found=f"{pixels.shape} in {frame.name}",
                        )
                    yield index, rescaled(pixels, frame)


def decode(dataset: FileDataset, header: Header, numbers: Sequence[int]) -> Iterator[NDArray[np.generic]]:
    """Stored values of some frames, each (rows, columns).

    Raises:
        CaseError: if they cannot be decoded.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # a bare data set: pydicom found out while reading
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    check_codec(syntax, header)
    try:
        for pixels in iter_pixels(
            dataset, indices=list(numbers), raw=True, decoding_plugin=PIXEL_DECODERS.get(syntax, "")
        ):
            yield np.asarray(pixels)
    except Exception as error:  # every decoder has errors of its own
        raise undecodable(header, error) from error


def rescaled(pixels: NDArray[np.generic], frame: Frame) -> NDArray[np.float32]:
    """Stored values to real ones by the frame's own `scale`.

    Raises:
        CaseError: as `scale`.
    """
    slope, intercept = scale(frame)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def scale(frame: Frame) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept (PS3.3 C.11.1); of parametric maps, and PET with units, RealWorldValueMapping.

    Raises:
        CaseError: for a slope that is 0 or no number, and for a parametric map without one linear mapping.
    """
    names = ("RescaleSlope", "RescaleIntercept")
    is_map = frame.tags.get("SOPClassUID") == ParametricMapStorage
    if is_map and (frame.tags.get("RealWorldValueMappings") != 1 or "RealWorldValueSlope" not in frame.tags):
        raise CaseError(
            "the parametric map does not say with one slope what its values mean",
            file=frame.header.source.path,
            expected="one item of RealWorldValueMappingSequence with RealWorldValueSlope",
            found=f"{frame.tags.get('RealWorldValueMappings', 0)} items",
            remedy="Export one quantity with a linear mapping, or convert the map to NIfTI.",
        )
    if is_map or (frame.tags.get("Modality") == "PT" and "RealWorldValueSlope" in frame.tags):
        names = ("RealWorldValueSlope", "RealWorldValueIntercept")  # to which the units belong
    slope, intercept = frame.tags.get(names[0], 1.0), frame.tags.get(names[1], 0.0)
    if not all(isinstance(n, float | int) and np.isfinite(n) for n in (slope, intercept)) or slope == 0:
        raise CaseError(
            f"{names[0]} and {names[1]} cannot be right in {frame.name}",
            file=frame.header.source.path,
            found=(slope, intercept),
        )
    return slope, intercept


def undecodable(header: Header, error: BaseException) -> CaseError:
    """The error for pixels that cannot be decoded."""
    return CaseError(
        f"the pixels of {header.source.name} cannot be decoded: damaged or cut short",
        file=header.source.path,
        found=type(error).__name__,
        remedy="Export the series again.",
    )


def check_codec(syntax: str, header: Header) -> None:
    """Refuse a transfer syntax that nothing installed can decode.

    Raises:
        CaseError: naming the command that installs the decoders.
    """
    try:
        with quiet():
            decoder = get_decoder(UID(syntax, IGNORE))
    except NotImplementedError:
        raise CaseError(
            "the image is stored in a transfer syntax that cannot be decoded",
            file=header.source.path,
            found=UID(syntax, IGNORE).name,
            remedy="Have the archive send it uncompressed.",
        ) from None
    if not decoder.is_available:
        raise CaseError(
            f"the image is compressed ({UID(syntax, IGNORE).name}) and the decoder for that is not installed",
            file=header.source.path,
            remedy=f"Install it: {CODECS}",
        )
