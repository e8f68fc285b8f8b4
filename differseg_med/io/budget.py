"""What reading one file may cost: limits that are checked against its header before anything is allocated.

A header is a claim. It is held against the size of the file (nothing unpacks to more than `DEFLATE_RATIO` times its
size) and against limits that no examination exceeds, so that a file of 67 bytes cannot ask for 6 GB. As all work is
linear in these sizes, they bound the seconds too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from differseg_med.errors import CaseError

MAX_VOXELS = 2**30
"""Voxels of one volume, for example 1024 x 1024 x 1024: 4 GiB as float32."""

_MAX_BYTES = 2**33
"""Bytes of the voxels of one volume as stored."""

MAX_PIXELS = 2**26
"""Pixels of one 2-D image, for example 8192 x 8192."""

MAX_HEADER_BYTES = 2**20
"""Text header of an NRRD or MetaImage file."""

DEFLATE_RATIO = 1032
"""More than this deflate cannot unpack from one byte."""

SPARE_BYTES = 2**16
"""What may follow the voxels in a file: padding and trailers."""

_CHUNK = 2**16


def check_claim(
    path: Path, shape: Iterable[int], voxel_bytes: float, *, held: int, packed: bool, before: int = 0
) -> None:
    """Hold what a header claims against the limits and against what the file can hold.

    Args:
        path: the file, for the message.
        shape: number of voxels along each axis, several values of a voxel included.
        voxel_bytes: bytes of one value in the file; of text the least that a number needs.
        held: bytes of voxels in the file.
        packed: whether they are compressed.
        before: bytes that are unpacked before them.

    Raises:
        CaseError: if an axis has no voxel, a limit is exceeded, or the file is too small for the claim.
    """
    shape = tuple(shape)
    words = f"{' x '.join(map(str, shape))} voxels"
    if not shape or min(shape) < 1:
        raise CaseError(
            "the header states an axis without voxels",
            file=path,
            expected="at least one voxel along each axis",
            found=words,
            remedy="Convert the file again from the source.",
        )
    voxels = math.prod(shape)
    size = voxels * voxel_bytes + before
    if size > held * (DEFLATE_RATIO if packed else 1):
        raise CaseError(
            "the file is damaged or cut short: it is smaller than its header says",
            file=path,
            expected=f"{size:.0f} bytes for {words}",
            found=f"{held} {'compressed ' if packed else ''}bytes",
            remedy="Copy or convert it again from the source.",
        )
    if voxels > MAX_VOXELS or size > _MAX_BYTES:
        raise CaseError(
            "the volume is larger than this program reads",
            file=path,
            expected=f"at most {MAX_VOXELS} voxels and {_MAX_BYTES >> 30} GiB",
            found=words,
            remedy="If the header is right, crop the volume to the region of interest.",
        )


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse a 2-D image that would fill the memory.

    Raises:
        CaseError: if it has more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise CaseError(
            "the image is larger than this program reads",
            file=path,
            expected=f"at most {MAX_PIXELS} pixels",
            found=f"{height} x {width} pixels",
            remedy="Make it smaller, or crop it.",
        )


def unpack(file: BinaryIO, size: int, *, keep: bool = True) -> bytearray:
    """Unpack gzip or zlib data to its end, so that its checksums are compared.

    Args:
        file: at the beginning of the data.
        size: how many bytes are expected; `SPARE_BYTES` more are read and dropped.
        keep: False to compare checksums only.

    Returns:
        ``size`` bytes, or none without ``keep``.

    Raises:
        EOFError, ValueError, zlib.error: if the data is cut short, too long, or does not fit its checksum.
    """
    room = bytearray(size if keep else 0)
    unpacker, filled = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    while chunk := file.read(_CHUNK):
        while chunk:
            if unpacker.eof:  # the next of several members; zeros between them are padding
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
            piece = unpacker.decompress(chunk)
            chunk = unpacker.unused_data
            if keep and filled < size:
                part = piece[: size - filled]
                room[filled : filled + len(part)] = part
            filled += len(piece)
            if filled > size + SPARE_BYTES:
                raise ValueError("more voxels than the header says")
    if filled < size or not unpacker.eof:
        raise EOFError("cut short")
    return room


def unpack_start(file: BinaryIO, size: int) -> bytes:
    """At most the first ``size`` bytes of gzip data, fewer if it is shorter or damaged."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        return unpacker.decompress(file.read(_CHUNK), size)
    except zlib.error:
        return b""


def beside(header: Path, name: str) -> Path:
    """The file beside a header that holds its voxels.

    Raises:
        CaseError: if the name leads anywhere else: voxels are read from no other place of the machine.
    """
    plain = name not in ("", ".", "..") and not set(name) & set("/\\:\0")
    path = header.parent / name if plain else header
    if not plain or (path.exists() and path.resolve().parent != header.parent.resolve()):
        raise CaseError(
            "the header names voxels in another folder, which are not read",
            file=header,
            expected="voxels in the file itself, or in one file beside it",
            remedy="Put the data file beside the header and name it there without a folder.",
        )
    if not path.is_file():
        raise CaseError(
            "the file with the voxels that the header names is missing", file=header, remedy="Copy both files together."
        )
    return path
