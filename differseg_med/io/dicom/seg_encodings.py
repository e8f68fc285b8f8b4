"""SEG in encodings that highdicom does not read, rewritten in memory as uncompressed little endian."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pack_bits, pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression: each frame deflated for itself (PS3.5 A.4.14)."""

ODD = (DEFLATED_FRAMES, str(RLELossless), str(ExplicitVRBigEndian))


def as_native(dataset: FileDataset) -> FileDataset:
    """The same SEG, if it is one of bits in an encoding of `ODD`, uncompressed; others are returned as they are.

    Raises:
        ValueError: if the pixels are damaged (pydicom and zlib have errors of their own).
    """
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax not in ODD or int(dataset.BitsAllocated) != 1:
        return dataset
    count, size = int(dataset.get("NumberOfFrames", 1)), int(dataset.Rows) * int(dataset.Columns)
    if syntax == ExplicitVRBigEndian:
        bits = dataset.pixel_array.reshape(-1)
    else:
        frames = list(_unpacked(dataset, syntax, count, (size + 7) // 8))
        bits = np.concatenate([np.unpackbits(frame, bitorder="little")[:size] for frame in frames])
    if bits.size != count * size:
        raise ValueError("the SEG has not as many pixels as its header says")
    dataset.PixelData = pack_bits(bits)
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_original_encoding(False, True)
    return dataset


def _unpacked(dataset: FileDataset, syntax: str, count: int, length: int) -> Iterator[NDArray[np.uint8]]:
    """The packed bits of each frame."""
    frames = generate_frames(dataset.PixelData, number_of_frames=count)
    if syntax == DEFLATED_FRAMES:
        for frame in frames:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, length)
            yield np.frombuffer(content, np.uint8)
        return
    # The decoders know no RLE of single bits: eight of them make a pixel of a byte.
    for frame in frames:
        row = FileDataset("", {}, file_meta=dataset.file_meta)
        row.Rows, row.Columns, row.SamplesPerPixel, row.PhotometricInterpretation = 1, length, 1, "MONOCHROME2"
        row.BitsAllocated = row.BitsStored = 8
        row.HighBit, row.PixelRepresentation = 7, 0
        row.PixelData = encapsulate([frame])
        yield np.asarray(pixel_array(row, decoding_plugin="pydicom"), np.uint8).reshape(-1)
