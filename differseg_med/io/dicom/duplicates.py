"""Copies of an image within a series: dropped if they are identical, refused if they are not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from differseg_med.errors import CaseError
from differseg_med.io.dicom.files import Header, UnreadableError, opened, quiet, read_dataset
from differseg_med.io.dicom.pixels import decode
from differseg_med.io.dicom.planes import Frame

_SAME = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")


def drop_copies(frames: Sequence[Frame], *, same_uid: bool = True) -> tuple[list[Frame], tuple[str, ...]]:
    """Drop frames that another one equals in pixels, position and scale.

    Args:
        frames: the frames of one series.
        same_uid: look only at frames with one SOPInstanceUID, which must be equal; else at all.

    Raises:
        CaseError: for two files with one SOPInstanceUID that differ.
    """
    groups: dict[object, list[Frame]] = {}
    for frame in frames:
        key: object = (frame.tags.get("SOPInstanceUID"), frame.number) if same_uid else _place(frame)
        groups.setdefault(key, []).append(frame)
    kept, dropped = [], 0
    for key, group in groups.items():
        if len(group) == 1 or (same_uid and key == (None, 0)):
            kept += group
            continue
        # One image may have come twice, once compressed without loss: then only decoded pixels compare.
        decoded = len({frame.tags.get("TransferSyntaxUID") for frame in group}) > 1
        seen: dict[object, Frame] = {}
        for frame in group:
            seen.setdefault((_place(frame), _pixel_hash(frame.header, decoded=decoded)), frame)
        if same_uid and len(seen) > 1:
            first, second = list(seen.values())[:2]
            raise CaseError(
                "two different images carry the same SOPInstanceUID",
                file=first.header.source.path.parent,
                found=f"{first.name} and {second.name}",
                remedy="Keep the file that is right.",
            )
        kept += seen.values()
        dropped += len(group) - len(seen)
    return kept, (f"{dropped} identical copies of images left out",) if dropped else ()


def _pixel_hash(header: Header, *, decoded: bool) -> str:
    """A hash of a file's pixels, as they are stored or decoded."""
    with quiet():
        for source, file in opened([header.source]):
            try:
                dataset = read_dataset(file, pixels=True)
            except UnreadableError as error:
                raise CaseError(str(error), file=source.path) from error
            if decoded and "PixelData" in dataset:
                frames = decode(dataset, header, range(max(len(header.frames), 1)))
                data = b"".join(pixels.tobytes() for pixels in frames)
            else:
                data = dataset.get("PixelData") or b""
    return hashlib.sha256(data).hexdigest()


def _place(frame: Frame) -> tuple[object, ...]:
    return (*(frame.tags.get(name) for name in _SAME), frame.number)
