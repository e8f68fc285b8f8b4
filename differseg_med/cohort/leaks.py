"""The same patient on both sides of a split: by subject, by DICOM identity, and by voxels that are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.case import Case
from differseg_med.cohort.cells import same_subject
from differseg_med.errors import Finding, Level

_REMEDY_SUBJECT = "Put all cases of a subject on one side (cohort folds does), then train again."
_REMEDY_PATIENT = (
    "Give them one subject_id. If anonymisation gave all patients the same value, this says nothing: leave it."
)
_REMEDY_MIXED = "Make sure that the images are of one patient; hospitals number the same patient differently."
_REMEDY_IMAGE = "Find out whether these are the same patient; if so give them one subject_id, else correct the entries."


def content_key(voxels: NDArray[Any]) -> str:
    """A key of an image's values that does not depend on orientation, file format or header; empty for a constant.

    Two images have the same key if one can be made from the other by swapping and turning axes round. The values are
    compared as float32 (every bit counts), each mixed (splitmix64) and added up, so that their order is indifferent.
    """
    values = np.ascontiguousarray(voxels, dtype=np.float32) + np.float32(0)  # -0 is 0
    if values.size == 0 or values.min() == values.max():
        return ""
    bits = values.ravel().view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        bits += np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total = int((bits ^ (bits >> np.uint64(31))).sum(dtype=np.uint64))
    return f"{'x'.join(map(str, sorted(values.shape)))}:{total:016x}"


def subject_leaks(cases: Sequence[Case]) -> list[Finding]:
    """Subjects whose cases are in several splits, or in several folds: an error each.

    Ids that spreadsheets take for one (``007`` and ``7``, ``P1`` and ``p1``) are one subject.
    """
    findings = []
    for column in ("split", "fold"):
        sides: dict[str, dict[str, list[str]]] = {}
        names: dict[str, list[str]] = {}
        for case in cases:
            if side := getattr(case, column):
                subject = same_subject(case.subject_id)
                sides.setdefault(subject, {}).setdefault(side, []).append(case.case_id)
                names.setdefault(subject, []).append(case.subject_id)
        for key, own in sorted(sides.items()):
            if len(own) > 1:
                subject = " or ".join(dict.fromkeys(names[key]))
                places = "; ".join(f"{column} {side}: {', '.join(ids)}" for side, ids in sorted(own.items()))
                message = f"subject {subject} is on both sides of the {column} ({places})"
                findings.append(
                    Finding("error", message, _REMEDY_SUBJECT, case=next(iter(own.values()))[0], column=column)
                )
    return findings


def image_leaks(cases: Sequence[Case], keys: Mapping[tuple[str, str], str]) -> list[Finding]:
    """Images that occur twice.

    Args:
        cases: the cohort.
        keys: `content_key` by case id and column (modality or label).

    Returns:
        An error for cases on both sides of a split or fold, else a warning.
    """
    findings = []
    for same, owners in _sharing(cases, keys):
        if len(same) > 1:
            level, where = _judge(owners)
            words = ", ".join(f"{column} of {case_id}" for case_id, column in same)
            findings.append(
                Finding(level, f"the same voxels: {words}{where}", _REMEDY_IMAGE, case=same[0][0], column=same[0][1])
            )
    return findings


def patient_leaks(cases: Sequence[Case], identities: Mapping[str, Mapping[tuple[str, str], str]]) -> list[Finding]:
    """What DICOM files say of their patients and the table does not. The values themselves are not told.

    Args:
        cases: the cohort.
        identities: by attribute (PatientID, StudyInstanceUID) its value by case id and column.

    Returns:
        For cases of several subjects that share a value an error if they are on both sides of a split or fold, else a
        warning; a warning for a case whose images have several values of PatientID.
    """
    findings, told = [], set()
    for attribute, keys in identities.items():
        for _, owners in _sharing(cases, keys):
            ids = ", ".join(case.case_id for case in owners)
            if ids not in told and len({case.subject_id for case in owners}) > 1:
                told.add(ids)
                level, where = _judge(owners)
                message = f"the same {attribute} in cases of several subjects: {ids}{where}"
                findings.append(Finding(level, message, _REMEDY_PATIENT, case=owners[0].case_id))
    for case in cases:
        columns = {
            key: column for (i, column), key in identities.get("PatientID", {}).items() if i == case.case_id and key
        }
        if len(columns) > 1:
            message = f"the images have different values of PatientID: {', '.join(columns.values())}"
            findings.append(Finding("warning", message, _REMEDY_MIXED, case=case.case_id))
    return findings


def _sharing(
    cases: Sequence[Case], keys: Mapping[tuple[str, str], str]
) -> Iterator[tuple[list[tuple[str, str]], list[Case]]]:
    """Per key the places that have it, and their cases; blank keys are none."""
    by_id = {case.case_id: case for case in cases}
    places: dict[str, list[tuple[str, str]]] = {}
    for place, key in keys.items():
        if key:
            places.setdefault(key, []).append(place)
    for same in places.values():
        yield same, [by_id[case_id] for case_id in dict.fromkeys(case_id for case_id, _ in same)]


def _judge(owners: Sequence[Case]) -> tuple[Level, str]:
    """Error and the sides if the cases are apart, else warning."""
    if not _apart(owners):
        return "warning", ""
    sides = {f"{case.case_id} {case.split or case.fold}" for case in owners if case.split or case.fold}
    return "error", f" ({', '.join(sorted(sides))})"


def _apart(cases: Iterable[Case]) -> bool:
    """Whether cases are in different splits or folds."""
    cases = list(cases)
    return any(len({getattr(c, column) for c in cases if getattr(c, column)}) > 1 for column in ("split", "fold"))
