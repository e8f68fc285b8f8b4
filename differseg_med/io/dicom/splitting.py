"""A series as parts, each one volume: echoes, b-values, phases or orientations that share a SeriesInstanceUID."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from differseg_med.io.dicom.planes import Frame, Plane

# fmt: off
SPLIT_BY = (
    "StackID", "EchoNumbers", "EchoTime", "DiffusionBValue", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "InversionTime", "ImageType", "ComplexImageComponent",
    "AcquisitionNumber", "FrameAcquisitionNumber", "DiffusionDirectionality", "DiffusionGradientOrientation",
    "NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime", "FlipAngle", "RepetitionTime",
    "KVP", "ConvolutionKernel", "ContrastBolusAgent", "FrameReferenceTime", "AcquisitionDateTime", "AcquisitionTime",
    "ContentTime", "SeriesDescription",
)
# fmt: on
"""What can tell volumes of one series apart, the more telling first."""

IN_TURN = ("TriggerTime", "FrameReferenceTime", "AcquisitionDateTime", "AcquisitionTime", "ContentTime")
"""Times that differ from slice to slice, too: the first, second ... at each position belong together."""

STEADY = ("EchoTime", "DiffusionBValue", "ImageType", "ComplexImageComponent")
"""What never differs within a volume."""

SAME_POSITION_MM = 1e-2
"""Slices closer than this are at one position: half of the thinnest slice of a CT is 0.1 mm."""

Placed = tuple[Frame, Plane]


@dataclass(frozen=True)
class Group:
    """Frames of one part, and the attributes that set them apart from the other parts, in words."""

    frames: tuple[Placed, ...]
    what: str = ""


def split_by_geometry(placed: Sequence[Placed]) -> list[Group]:
    """Groups of parallel planes of one matrix, in the order of their first InstanceNumber."""
    groups: list[list[Placed]] = []
    for frame, plane in placed:
        for group in groups:
            other_frame, other = group[0]
            if plane.parallel(other) and frame.tags.get("FrameOfReferenceUID") == other_frame.tags.get(
                "FrameOfReferenceUID"
            ):
                group.append((frame, plane))
                break
        else:
            groups.append([(frame, plane)])
    groups.sort(key=lambda group: min(_turn(frame) for frame, _ in group))
    return [
        Group(tuple(group), _geometry_words(group[0][1], len(group)) if len(groups) > 1 else "") for group in groups
    ]


def split_by_attributes(group: Group, regular: Callable[[Sequence[Placed]], bool]) -> list[Group] | None:
    """Split a group so that every part has one frame per position; None if no attribute does that.

    Args:
        group: parallel planes.
        regular: tells whether frames at different positions are evenly spaced.
    """
    positions = _positions(group.frames)
    most = max(Counter(positions).values())
    if most == 1:
        return [group] if regular(group.frames) else _regular_parts(group, positions, regular)
    for names in ([name] for name in SPLIT_BY):
        parts = _parted(group, positions, names)
        if _separates(parts, most):
            return _named(parts, names, group)
    names = []
    collisions = _collisions(_parted(group, positions, names))
    for name in SPLIT_BY:
        parts = _parted(group, positions, [*names, name])
        if _collisions(parts) < collisions and len(parts) < len(group.frames) / 2:
            names, collisions = [*names, name], _collisions(parts)
            if _separates(parts, most):
                return _named(parts, names, group)
    return _in_turn(group, positions, most)


Parts = dict[tuple[Any, ...], list[tuple[Placed, int]]]


def _regular_parts(
    group: Group, positions: list[int], regular: Callable[[Sequence[Placed]], bool]
) -> list[Group] | None:
    """Volumes a little apart, or stacks: together uneven, each for itself even. Else they stay what they are."""
    for name in SPLIT_BY:
        parts = _parted(group, positions, [name])
        if (
            1 < len(parts) <= len(group.frames) / 2
            and (name == "StackID" or _interleaved(parts))
            and all(len(part) > 1 and regular([item for item, _ in part]) for part in parts.values())
        ):
            return _named(parts, [name], group)
    return [group]


def _parted(group: Group, positions: list[int], names: Sequence[str]) -> Parts:
    parts: Parts = {}
    for item, position in zip(group.frames, positions):
        key = tuple(item[0].tags.get(name) for name in names)
        parts.setdefault(key, []).append((item, position))
    return parts


def _interleaved(parts: Parts) -> bool:
    """Whether parts reach into each other; one behind the other they may as well be one volume with a gap."""
    ends = sorted((min(p for _, p in part), max(p for _, p in part)) for part in parts.values())
    return all(after[0] < before[1] for before, after in pairwise(ends))


def _collisions(parts: Parts) -> int:
    return sum(len(part) - len({position for _, position in part}) for part in parts.values())


def _separates(parts: Parts, most: int) -> bool:
    """Whether each part has one frame per position, and there are not so many that every slice would be one."""
    return _collisions(parts) == 0 and 1 < len(parts) < 2 * most


def _in_turn(group: Group, positions: list[int], most: int) -> list[Group] | None:
    if set(Counter(positions).values()) != {most}:
        return None
    for name in IN_TURN:
        values = [frame.tags.get(name) for frame, _ in group.frames]
        if any(value is None for value in values) or len({type(value) for value in values}) > 1:
            continue
        rows = sorted(zip(positions, values, range(len(values))))
        if any(a[:2] == b[:2] for a, b in pairwise(rows)):
            continue
        turns: list[list[Placed]] = [[] for _ in range(most)]
        for _, row in groupby(rows, key=lambda row: row[0]):
            for turn, (_, _, index) in enumerate(row):
                turns[turn].append(group.frames[index])
        return _counted(turns, name, group)
    return None


def split_by_number(group: Group) -> list[Group] | None:
    """Split a group by InstanceNumber, for scanners that tell the volumes of a time series apart by nothing else.

    Args:
        group: parallel planes, no two of them copies.

    Returns:
        The volumes, or None unless the numbers run through all positions volume by volume, or through all volumes
        position by position, without an exception.
    """
    positions = np.array(_positions(group.frames))
    numbers = [(frame.tags.get("InstanceNumber"), frame.number) for frame, _ in group.frames]
    count = int(positions.max()) + 1
    if any(number is None for number, _ in numbers) or len(set(numbers)) < len(numbers) or len(numbers) % count:
        return None
    order = np.array(sorted(range(len(numbers)), key=numbers.__getitem__))
    by_volume, by_position = order.reshape(-1, count), order.reshape(count, -1).T
    for turns in (by_volume, by_position):
        places = positions[turns]
        if (places == places[0]).all():
            volumes = [[group.frames[index] for index in turn] for turn in turns]
            if all(len({frame.tags.get(name) for frame, _ in volume}) == 1 for volume in volumes for name in STEADY):
                return _counted(volumes, "InstanceNumber", group)
    return None


def _counted(turns: Sequence[list[Placed]], name: str, group: Group) -> list[Group]:
    """Volumes that have no attribute of their own, as groups in their order."""
    telling = _telling({(turn,): [(item, 0) for item in volume] for turn, volume in enumerate(turns)})
    found = []
    for turn, volume in enumerate(turns, 1):
        words = [f"{turn} of {len(turns)} by {name}"]
        words += [f"{each} {_words(volume[0][0].tags.get(each))}" for each in telling]
        found.append(Group(tuple(volume), _and(group.what, ", ".join(words))))
    return found


def _named(parts: Parts, names: Sequence[str], group: Group) -> list[Group]:
    """Parts as groups in the order of their values, numbers before text, absent ones first."""

    def rank(key: tuple[Any, ...]) -> list[tuple[int, Any]]:
        return [(0, 0) if v is None else (1, v) if isinstance(v, int | float) else (2, str(v)) for v in key]

    telling = [*_telling(parts), *names]
    telling = list(dict.fromkeys(name for name in SPLIT_BY if name in telling))
    named = {tuple(part[0][0][0].tags.get(name) for name in telling): part for part in parts.values()}
    found = []
    for key in sorted(named, key=rank):
        words = ", ".join(f"{name} {_words(value)}" for name, value in zip(telling, key))
        found.append(Group(tuple(item for item, _ in named[key]), _and(group.what, words)))
    return found


def _telling(parts: Parts) -> list[str]:
    """Up to three attributes beside those that separate parts that say what the parts are."""
    found = []
    for name in SPLIT_BY:
        values = [{frame.tags.get(name) for (frame, _), _ in part} for part in parts.values()]
        if name not in IN_TURN and all(len(own) == 1 for own in values) and len(set.union(*values)) > 1:
            found.append(name)
    return found[:3]


def _positions(frames: Sequence[Placed]) -> list[int]:
    """A number per frame, equal for frames at one place along the normal."""
    normal = frames[0][1].normal
    depth = np.array([plane.position @ normal for _, plane in frames])
    order = np.argsort(depth, kind="stable")
    numbers = np.empty(len(frames), dtype=int)
    numbers[order] = np.cumsum(np.diff(depth[order], prepend=depth[order[0]]) > SAME_POSITION_MM)
    return [int(number) for number in numbers]


def same_position(frames: Sequence[Placed]) -> list[list[Placed]]:
    """Frames by position along the normal, in ascending order."""
    groups: dict[int, list[Placed]] = {}
    for item, position in zip(frames, _positions(frames)):
        groups.setdefault(position, []).append(item)
    return [groups[position] for position in sorted(groups)]


def _turn(frame: Frame) -> tuple[Any, ...]:
    return (frame.tags.get("InstanceNumber") or 0, str(frame.tags.get("SOPInstanceUID")), frame.number)


def _geometry_words(plane: Plane, count: int) -> str:
    axis = ("sagittal", "coronal", "axial")[int(np.abs(plane.normal).argmax())]
    rows, columns = plane.shape
    return f"{count} {axis} slices of {columns} x {rows}"


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return "\\".join(_words(item) for item in value)
    return "absent" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _and(a: str, b: str) -> str:
    return f"{a}, {b}" if a else b
