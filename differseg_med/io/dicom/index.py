"""An index of a tree of DICOM files: one entry per volume, RTSTRUCT, SEG and other object."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from differseg_med.errors import CaseError
from differseg_med.io.dicom.cells import RESAMPLE, join_cell
from differseg_med.io.dicom.files import Header, Skipped, read_headers
from differseg_med.io.dicom.pet import pet_problem
from differseg_med.io.dicom.pixels import check_codec, check_grey, scale
from differseg_med.io.dicom.series import Part, common_parent, series_parts
from differseg_med.io.dicom.tags import RULES

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of SEG, and of SEG as a label map."""


@dataclass(frozen=True)
class SeriesEntry:
    """One usable or unusable thing in a tree of DICOM files.

    Args:
        cell: ``PATH`` or ``PATH::SELECTOR``, absolute, as cohort tables have it.
        kind: ``image``, ``rtstruct``, ``seg`` or ``other`` (reports, key images, damaged files).
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        frame_uid: FrameOfReferenceUID; images with the same one share a space.
        patient_key: a short hash of PatientID, the same for all images of a patient.
        tags: attributes by keyword that say nothing about who the patient is; of a part of a series also ``Part`` (in
            words) and ``PartNumber``, of an RTSTRUCT ``ROINames``, of a SEG ``SegmentLabels``, of both
            ``ItemNumbers`` and ``ReferencedSeries``.
        files: number of files.
        slices: number of slices of an image; 0 of everything else, and if they cannot be read.
        problem: why it cannot be used.
        notes: remarks for the report.
        doubts: remarks that somebody should look into before the image is used.
        resampled: the cell by which an image with a problem can be read after all, interpolated; empty if it cannot.
    """

    cell: str
    kind: str
    series_uid: str = ""
    study_uid: str = ""
    frame_uid: str = ""
    patient_key: str = ""
    tags: dict[str, Any] = field(default_factory=dict)
    files: int = 1
    slices: int = 0
    problem: CaseError | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    resampled: str = ""


def index_folder(root: str | Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> list[SeriesEntry]:
    """Everything DICOM in a folder, zip archive or file; only headers are read.

    Files may have any names, lie in folders in folders or in zip archives. Files that are not DICOM are left out (see
    `index_with_skipped`); damaged DICOM files are entries of kind ``other`` with a problem.

    Args:
        root: where to look.
        progress: wraps the files, for example ``tqdm``.

    Raises:
        CaseError: if there is no such file or folder.
    """
    return index_with_skipped(root, progress)[0]


def index_with_skipped(
    root: str | Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> tuple[list[SeriesEntry], list[Skipped]]:
    """As `index_folder`, and the files that are not DICOM, each with the reason."""
    # Not resolve(): data sets in DataLad are links to files with other names.
    headers, skipped = read_headers(Path(os.path.abspath(root)), progress)  # noqa: PTH100
    entries = [
        SeriesEntry(str(item.source.path), "other", problem=CaseError(item.reason, file=item.source.path))
        for item in skipped
        if item.damaged
    ]
    population = _population(headers)
    entries += [_object_entry(header, population) for header in headers if kind_of(header) != "image"]
    images = image_series(headers)
    for key, own in images.items():
        rivals = [header for other, its in images.items() if other[0] == key[0] and other != key for header in its]
        entries += _image_entries(key[0], own, population, rivals)
    return sorted(entries, key=lambda entry: entry.cell), [item for item in skipped if not item.damaged]


def kind_of(header: Header) -> str:
    """``image``, ``rtstruct``, ``seg`` or ``other``."""
    sop_class = header.tags.get("SOPClassUID")
    if sop_class == RTSTRUCT:
        return "rtstruct"
    if sop_class in SEGMENTATIONS:
        return "seg"
    return "image" if "Rows" in header.tags or "ImagePositionPatient" in header.tags else "other"


def image_series(headers: Iterable[Header]) -> dict[tuple[str, ...], list[Header]]:
    """The images among headers by series: SeriesInstanceUID, and what must be the same within a series.

    Tools that gave UIDs anew may have given one to two patients, or none at all: then the folder must do.
    """
    series: dict[tuple[str, ...], list[Header]] = {}
    for header in headers:
        if kind_of(header) == "image":
            uid, *rest = (
                str(header.tags.get(name, "")) for name in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID")
            )
            folder = "" if uid else str(header.source.path.parent)
            series.setdefault((uid, *rest, folder), []).append(header)
    return series


def _image_entries(
    uid: str, own: Sequence[Header], population: Counter[Path], rivals: Sequence[Header]
) -> Iterator[SeriesEntry]:
    """The parts of one series; ``rivals`` are images of others that carry its UID."""
    parts = series_parts(own)
    path = _path(own)
    alone = population[path] == len(own)
    mixed = not alone and (not uid or any(path in (h.source.path, *h.source.path.parents) for h in rivals))
    for number, part in enumerate(parts, 1):
        selector = f"{uid}#{number}" if len(parts) > 1 else "" if alone else uid
        first = part.frames[0].tags if part.frames else own[0].tags
        tags = {name: first[name] for name in RULES if name in first}
        tags |= {"Part": part.what} if part.what else {}
        tags |= {"PartNumber": number} if len(parts) > 1 else {}
        sources = {frame.header.source for frame in part.frames}
        yield SeriesEntry(
            cell=join_cell(path, selector),
            kind="image",
            tags=tags,
            files=len(sources) or len(own),
            slices=part.grid.shape[2] if part.grid else len(part.frames),
            problem=shared_uid(path) if mixed else _problem(part),
            notes=part.notes,
            doubts=part.doubts,
            resampled=join_cell(path, selector + RESAMPLE) if _interpolable(part) else "",
            **_identity(own[0]),
        )


def shared_uid(path: Path) -> CaseError:
    """The error for images of several patients or examinations that cannot be told apart by SeriesInstanceUID."""
    return CaseError(
        "several patients or examinations share one SeriesInstanceUID, or have none",
        file=path,
        remedy="Put the images of each into a folder of its own.",
    )


def _problem(part: Part) -> CaseError | None:
    """What reading the part would fail with, as far as headers tell."""
    try:
        if part.problem is not None:
            raise part.problem
        _check_values(part)
    except CaseError as error:
        return copy.copy(error)
    return None


def _check_values(part: Part) -> None:
    header = part.frames[0].header
    check_grey(header)
    if "TransferSyntaxUID" in header.tags:
        check_codec(header.tags["TransferSyntaxUID"], header)
    for frame in part.frames:
        scale(frame)
    pet_problem(part.frames)


def _interpolable(part: Part) -> bool:
    if part.interpolable:
        with suppress(CaseError):
            _check_values(part)
            return True
    return False


def _object_entry(header: Header, population: Counter[Path]) -> SeriesEntry:
    kind = kind_of(header)
    tags = {name: header.tags[name] for name in RULES if name in header.tags}
    for found, name in (("regions", "ROINames"), ("segments", "SegmentLabels")):
        if found in header.tags:
            named = [item for item in header.tags[found] if item[0] != 0]
            tags[name] = tuple(label for _, label in named)
            tags["ItemNumbers"] = tuple(number for number, _ in named)
    if "referenced_series" in header.tags:
        tags["ReferencedSeries"] = header.tags["referenced_series"]
    selector = (
        str(header.tags.get("SeriesInstanceUID", ""))
        if header.source.members and population[header.source.path] > 1
        else ""
    )
    problem = None
    if kind == "rtstruct" and not header.tags.get("regions"):
        problem = CaseError("the RTSTRUCT has no ROI", file=header.source.path)
    return SeriesEntry(join_cell(header.source.path, selector), kind, tags=tags, problem=problem, **_identity(header))


def _identity(header: Header) -> dict[str, Any]:
    tags = header.tags
    patient = str(tags.get("PatientID", ""))
    return {
        "series_uid": str(tags.get("SeriesInstanceUID", "")),
        "study_uid": str(tags.get("StudyInstanceUID", "")),
        "frame_uid": str(tags.get("FrameOfReferenceUID", "")),
        "patient_key": hashlib.sha256(patient.encode()).hexdigest()[:12] if patient else "",
    }


def _path(own: Sequence[Header]) -> Path:
    paths = sorted({header.source.path for header in own})
    return paths[0] if len(paths) == 1 else common_parent(paths)


def _population(headers: Iterable[Header]) -> Counter[Path]:
    """How many DICOM objects a file, archive or folder holds, in all its folders."""
    return Counter(place for header in headers for place in (header.source.path, *header.source.path.parents))
