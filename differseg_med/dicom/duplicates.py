"""Copies of an image within a series: dropped if they are identical, refused if they are not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from differseg_med.dicom.files import Header, UnreadableError, opened, quiet, read_dataset
from differseg_med.dicom.planes import Frame
from differseg_med.errors import CaseError

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
        seen: dict[object, Frame] = {}
        for frame in group:
            seen.setdefault((_place(frame), pixel_hash(frame.header)), frame)
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


def pixel_hash(header: Header) -> str:
    """A hash of a file's stored pixels.

    Raises:
        CaseError: if the file cannot be read.
    """
    with quiet():
        for source, file in opened([header.source]):
            try:
                data = read_dataset(file, pixels=True).get("PixelData", b"")
            except UnreadableError as error:
                raise CaseError(str(error), file=source.path) from error
    return hashlib.sha256(data or b"").hexdigest()


def _place(frame: Frame) -> tuple[object, ...]:
    return (*(frame.tags.get(name) for name in _SAME), frame.number)
