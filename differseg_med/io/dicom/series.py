"""The headers of one series as parts, each a volume on a regular grid or with the reason why it is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.config import IGNORE
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.io.dicom.duplicates import drop_copies
from differseg_med.io.dicom.files import Header
from differseg_med.io.dicom.mosaic import is_mosaic, mosaic_grid
from differseg_med.io.dicom.planes import Frame, frames_of, plane_of
from differseg_med.io.dicom.splitting import (
    Group,
    Placed,
    same_position,
    split_by_attributes,
    split_by_geometry,
    split_by_number,
)
from differseg_med.io.dicom.stacking import Stack, stack_planes

MAX_SERIES_VOXELS = 2**29
"""Most voxels of one volume (2 GiB in memory): a damaged header must not exhaust the memory."""

BY_NUMBER = "nothing but InstanceNumber tells the volumes of this series apart: see that each is one phase"

LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
"""Transfer syntaxes that always lose something; in others LossyImageCompression says so."""

_SEPARATE = "Separate them in the archive, or convert the one that you mean to NIfTI."


@dataclass(frozen=True, eq=False)
class Part:
    """One volume of a series.

    Args:
        frames: its planes, sorted in space along the normal.
        grid: where the voxels ``(column, row, slice)`` are, RAS; None with a problem.
        what: what sets it apart from the other parts of the series; empty if it is the only one.
        problem: why it is no volume.
        notes: remarks for the report.
        doubts: remarks that somebody should look into before the part is used.
        stack: the planes' places, for resampling on request.
        mosaic: whether the one frame holds all slices side by side (Siemens).
    """

    frames: tuple[Frame, ...]
    grid: Grid | None
    what: str = ""
    problem: CaseError | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    stack: Stack | None = None
    mosaic: bool = False

    @property
    def interpolable(self) -> bool:
        """Whether it is no volume as it is, but would be one with ``+resample``."""
        return self.problem is not None and self.stack is not None and not self.stack.missing


def series_parts(headers: Sequence[Header]) -> list[Part]:
    """The parts of one series in a fixed order, which gives them their numbers in cells (``UID#1`` is the first)."""
    kinds: dict[str, list[Header]] = {}
    for header in headers:
        kinds.setdefault(str(header.tags.get("SOPClassUID")), []).append(header)
    # Pictures of reports, which some scanners add to a series, are no slices of it.
    return [
        replace(
            part,
            what=f"{UID(kind, IGNORE).name}, {part.what}".removesuffix(", ") if len(kinds) > 1 else part.what,
            doubts=(*part.doubts, *_loss(part.frames)),
        )
        for kind, own in sorted(kinds.items())
        for part in _parts_of_kind(own)
    ]


def _parts_of_kind(headers: Sequence[Header]) -> list[Part]:
    folder = _common_folder(headers)
    try:
        if any(is_mosaic(header) for header in headers):
            mosaics, notes = drop_copies([Frame(header, 0, header.tags) for header in sorted(headers, key=_turn)])
            return [_noted(_mosaic_part(frame, len(mosaics)), notes) for frame in mosaics]
        frames, notes = drop_copies([frame for header in headers for frame in frames_of(header)])
        groups = split_by_geometry([(frame, plane_of(frame)) for frame in frames])
    except CaseError as error:
        return [Part((), None, problem=error)]
    parts = [part for group in groups for part in _parts_of(group, folder)]
    return [_noted(part, notes) for part in parts]


def _parts_of(group: Group, folder: Path) -> list[Part]:
    split = split_by_attributes(group, _is_regular)
    if split is not None:
        return [_part(each, folder) for each in split]
    try:
        frames, notes = drop_copies([frame for frame, _ in group.frames], same_uid=False)
        kept = {id(frame) for frame in frames}
        unique = Group(tuple(item for item in group.frames if id(item[0]) in kept), group.what)
        split = split_by_attributes(unique, _is_regular)
        if split is not None:
            return [_noted(_part(each, folder), notes) for each in split]
        # If not without copies then with them: the outer slices of all phases may be nothing but air.
        split = split_by_number(unique) or split_by_number(group)
        if split is None:
            raise _ambiguous(unique, folder)
    except CaseError as error:
        return [Part(tuple(frame for frame, _ in group.frames), None, group.what, error)]
    parts = [_part(each, folder) for each in split]
    return [replace(part, doubts=(*part.doubts, BY_NUMBER)) for part in parts]


def _ambiguous(group: Group, folder: Path) -> CaseError:
    double = [items for items in same_position(group.frames) if len(items) > 1]
    (first, plane), (second, _) = double[0][:2]
    return CaseError(
        f"{len(double)} slice positions have several different images and no attribute says which belong together",
        file=folder,
        found=f"{first.name} and {second.name} both at {plane.position @ plane.normal:.2f} mm",
        remedy=_SEPARATE,
    )


def _is_regular(frames: Sequence[Placed]) -> bool:
    return len(frames) == 1 or not stack_planes([plane for _, plane in frames]).problems


def _part(group: Group, folder: Path) -> Part:
    frames, planes = zip(*group.frames)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    thickness = [frame.tags.get("SliceThickness") for frame in frames]
    if len(frames) == 1:
        thickness = [frames[0].tags.get("SpacingBetweenSlices") or thickness[0]]
        if not _credible(thickness[0]):
            error = CaseError(
                "a single slice that does not say how thick it is", file=folder, expected="SliceThickness in mm"
            )
            return Part(frames, None, group.what, error)
        notes = (f"a single slice: {thickness[0]:g} mm from its header stands for the distance of slices",)
    stack = stack_planes(planes, thickness if all(map(_credible, thickness)) else ())
    ordered = tuple(frames[index] for index in stack.order)
    rows, columns = planes[0].shape
    problem = None
    if rows * columns * len(frames) > MAX_SERIES_VOXELS:
        problem = CaseError("the volume is too large", file=folder, found=f"{columns} x {rows} x {len(frames)} voxels")
    elif stack.problems:
        problem = _refusal(stack, folder)
    declared = ordered[0].tags.get("NumberOfSlices")
    if isinstance(declared, int) and declared > len(frames) and not group.what:
        doubts = (f"the header counts {declared} slices, found {len(frames)}",)
    grid = None if problem else stack.grid((rows, columns))
    return Part(ordered, grid, group.what, problem, notes, doubts, stack)


def _credible(thickness: object) -> bool:
    return isinstance(thickness, float) and 0 < thickness < 1000


def _refusal(stack: Stack, folder: Path) -> CaseError:
    remedy = (
        "Export the series again; if the slices are lost, it cannot be used."
        if stack.missing
        else "Reconstruct it as a regular volume, or have it interpolated: PATH::+resample."
    )
    return CaseError("; ".join(stack.problems), file=folder, remedy=remedy)


def _mosaic_part(frame: Frame, count: int) -> Part:
    b_value = frame.tags.get("DiffusionBValue")
    words = [f"InstanceNumber {frame.tags.get('InstanceNumber', '?')}"] if count > 1 else []
    words += [f"DiffusionBValue {b_value:g}"] if b_value is not None else []
    what = ", ".join(words)
    try:
        return Part((frame,), mosaic_grid(frame.header), what, mosaic=True)
    except CaseError as error:
        return Part((frame,), None, what, error, mosaic=True)


def _loss(frames: Sequence[Frame]) -> tuple[str, ...]:
    """What compression may have done to the voxels (PS3.3 C.7.6.1.1.5)."""
    for frame in frames:
        if frame.tags.get("LossyImageCompression") == "01" or frame.tags.get("TransferSyntaxUID") in LOSSY:
            return ("compressed with loss: the voxels are not exactly what was measured",)
    return ()


def _turn(header: Header) -> tuple[int, str]:
    return header.tags.get("InstanceNumber") or 0, str(header.tags.get("SOPInstanceUID"))


def _noted(part: Part, notes: Iterable[str]) -> Part:
    return replace(part, notes=(*part.notes, *notes))


def _common_folder(headers: Sequence[Header]) -> Path:
    paths = {header.source.path for header in headers}
    return paths.pop() if len(paths) == 1 else common_parent([header.source.path for header in headers])


def common_parent(paths: Iterable[Path]) -> Path:
    """The lowest folder that all files lie in."""
    parents = [path.parent.parts for path in paths]
    shared = []
    for names in zip(*parents):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return Path(*shared)
