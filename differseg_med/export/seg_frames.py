"""Which frames a DICOM SEG gets, so that the reader of OHIF finds every pixel where it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed_bytes(count: int, pixels: int) -> int:
    """Bytes of ``count`` frames of single bits, packed one after the other (PS3.5 8.2)."""
    return -(-count * pixels // 8)


def bits_are_understood(count: int, pixels: int) -> bool:
    """Whether cornerstone's adapters (up to 5.14 at least) read frames of single bits as they are.

    They go by the length of the pixel data alone. An odd number of bytes gets one more, as every value of DICOM has an
    even length: they refuse that. Where frames end within a byte and are few, the length can be the same as if each
    began a new byte: they read them so, and every frame but the first is shifted without a word.

    Args:
        count: of frames.
        pixels: of a frame.
    """
    stored = packed_bytes(count, pixels)
    stored += stored % 2
    if stored == count * packed_bytes(1, pixels):
        return count == 1 or pixels % 8 == 0
    return stored == packed_bytes(count, pixels)


def frames_to_keep(frames: NDArray[np.uint8]) -> list[int]:
    """The frames to write: all, or so many empty ones less that single bits are understood.

    The last empty frames are left out first: those before keep their numbers. If no number will do, all are kept, and
    `bits_are_understood` is false of them.

    Args:
        frames: ``(slices, rows, columns)``.
    """
    count, pixels = len(frames), frames[0].size
    empty = [index for index in reversed(range(count)) if not frames[index].any()][: count - 1]
    for less in range(len(empty) + 1):
        if bits_are_understood(count - less, pixels):
            return sorted(set(range(count)) - set(empty[:less]))
    return list(range(count))
