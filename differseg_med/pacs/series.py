"""Lists and fetches series; what comes is what was asked for, of one patient, and whole, or nothing appears."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from differseg_med.atomic import replacing
from differseg_med.errors import CaseError
from differseg_med.pacs.connection import AS_STORED, Client, errors_in_words
from differseg_med.paths import inside
from differseg_med.progress import Progress

logger = logging.getLogger(__name__)

UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")

MODALITY = re.compile(r"[A-Z0-9][A-Z0-9_ ]{0,15}")
"""A code string of DICOM."""

MAX_SERIES, MAX_INSTANCES, _PAGE = 10_000, 100_000, 1000
_MAX_NUMBER = 2**31


@dataclass(frozen=True)
class RemoteSeries:
    """A series as the server describes it; nothing that names the patient.

    Args:
        uid: SeriesInstanceUID.
        number: SeriesNumber, 0 if it has none.
        modality: Modality, for example ``MR``.
        instances: NumberOfSeriesRelatedInstances, None if the server does not say.
    """

    uid: str
    number: int
    modality: str
    instances: int | None


def list_series(client: Client, study_uid: str) -> list[RemoteSeries]:
    """The series of a study, by number.

    Raises:
        CaseError: if this is no UID, or the server does not answer, refuses, has no such study, or describes series
            with what cannot be.
    """
    if not is_uid(study_uid):
        raise CaseError("this is not a StudyInstanceUID", expected="numbers and dots, for example 1.2.840.113619.2.55")
    fields = ["SeriesNumber", "Modality", "NumberOfSeriesRelatedInstances"]
    with errors_in_words(client):
        found = client.search_for_series(study_instance_uid=study_uid, fields=fields)
        series = [_described(Dataset.from_json(answer), study_uid) for answer in bounded(found, MAX_SERIES, "series")]
    if not series:
        raise CaseError(
            "the server has no series of this study",
            expected="a StudyInstanceUID that it knows",
            remedy="Check the UID.",
        )
    if len({s.uid for s in series}) < len(series):
        raise impossible("the same series twice")
    return sorted(series, key=lambda s: (s.number, s.uid))


def pull(
    client: Client,
    study_uid: str,
    folder: str | Path,
    *,
    series: Sequence[str] = (),
    modalities: Sequence[str] = (),
    progress: Progress = iter,
) -> list[Path]:
    """Fetch series of a study, each into a folder of its own that appears when it is complete.

    Instances are fetched one by one, each held against the UIDs that were asked for. What was fetched before the
    network failed is kept in a hidden folder, and the next pull resumes from there.

    Args:
        client: see `connect`.
        study_uid: StudyInstanceUID.
        folder: where the folders go, ``<series number>_<modality>``; one that is there is replaced.
        series: only these SeriesInstanceUIDs.
        modalities: only these, for example ``MR``.
        progress: wraps the instances of a series.

    Returns:
        The folders.

    Raises:
        CaseError: as `list_series`, for a series that the study has not, one that came incomplete, or one with images
            of another series, study or patient.
    """
    known = list_series(client, study_uid)
    if strangers := sorted(set(series) - {s.uid for s in known}):
        raise CaseError("the study has no such series", expected=f"one of its {len(known)}", found=", ".join(strangers))
    wanted = [s for s in known if (not series or s.uid in series) and (not modalities or s.modality in modalities)]
    if not wanted:
        found = ", ".join(sorted({s.modality for s in known}))
        raise CaseError("the study has no series of this modality", expected=", ".join(modalities), found=found)
    names: dict[str, str] = {}
    for s in wanted:
        name = f"{s.number:03d}_{s.modality}"
        names[s.uid] = name if name not in names.values() else f"{name}_{len(names)}"
    patient: list[str] = []  # of the first instance: all others have the same
    targets = [(s, inside(folder, names[s.uid])) for s in wanted]
    return [_pull_series(client, study_uid, s, target, patient, progress) for s, target in targets]


def _described(tags: Dataset, study_uid: str) -> RemoteSeries:
    """What an answer says of a series, each part checked.

    Raises:
        CaseError: for what cannot be.
    """
    uid, modality = str(tags.SeriesInstanceUID), str(tags.get("Modality") or "unknown")
    count, number = tags.get("NumberOfSeriesRelatedInstances"), int(tags.get("SeriesNumber") or 0)
    if not is_uid(uid):
        raise impossible("a SeriesInstanceUID that is none")
    if str(tags.get("StudyInstanceUID") or study_uid) != study_uid:
        raise impossible("a series of another study")
    if modality != "unknown" and not MODALITY.fullmatch(modality):
        raise impossible("a Modality that is none")
    if not 0 <= number < _MAX_NUMBER or (count is not None and not 0 <= int(count) <= MAX_INSTANCES):
        raise impossible("a number that cannot be")
    return RemoteSeries(uid=uid, number=number, modality=modality, instances=None if count is None else int(count))


def _pull_series(
    client: Client, study_uid: str, series: RemoteSeries, folder: Path, patient: list[str], progress: Progress
) -> Path:
    partial = folder.with_name(f".{folder.name}.part")
    for path in (folder, partial):
        if path.is_symlink() or path.is_file():
            raise CaseError("there is a file or link where the series would go", file=path, remedy="Move it away.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    uids = sorted(_instances(client, study_uid, series.uid))
    if not uids or (series.instances is not None and len(uids) != series.instances):
        raise CaseError(
            f"series {series.number} came incomplete",
            expected=f"{series.instances} instances",
            found=len(uids),
            remedy="Try again; else ask who runs the server.",
        )
    _keep_only(partial, [_file_name(uid) for uid in uids])
    for uid in progress(uids):
        path = partial / _file_name(uid)
        wanted = (study_uid, series.uid, uid)
        with errors_in_words(client):
            if path.is_file() and _told_apart(pydicom.dcmread(path, stop_before_pixels=True), wanted) == "":
                _check_patient(pydicom.dcmread(path, stop_before_pixels=True), patient, series)
                continue
            instance = client.retrieve_instance(*wanted, media_types=AS_STORED)
            if why := _told_apart(instance, wanted):
                raise CaseError(f"series {series.number}: the server sent {why}", remedy="Ask who runs the server.")
            _check_patient(instance, patient, series)
            with replacing(path) as temporary:
                instance.save_as(temporary, enforce_file_format=True)
    for number, uid in enumerate(uids, start=1):
        (partial / _file_name(uid)).rename(partial / f"{number:05d}.dcm")
    _make_room(folder)
    partial.rename(folder)
    logger.info("%s: %d instances", folder.name, len(uids))
    return folder


def _make_room(folder: Path) -> None:
    """Remove an earlier pull of the series; anything else that lies there is somebody's data.

    Raises:
        CaseError: naming the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise CaseError("a file stands where the series would go", file=folder, remedy="Choose another --out.")
    others = [path.name for path in folder.glob("*") if not re.fullmatch(r"\d{5,}\.dcm", path.name)]
    if others:
        raise CaseError(
            "the folder of the series holds other files, which are kept",
            file=folder,
            found=", ".join(sorted(others)[:5]),
            remedy="Move them, or choose another --out.",
        )
    shutil.rmtree(folder, ignore_errors=True)


def _instances(client: Client, study_uid: str, series_uid: str) -> set[str]:
    """SOPInstanceUIDs of a series; servers answer in pages of their own size, or all at once whatever was asked."""
    uids: set[str] = set()
    while True:
        with errors_in_words(client):
            page = client.search_for_instances(study_uid, series_uid, offset=len(uids), limit=_PAGE)
            answers = [Dataset.from_json(answer) for answer in bounded(page, MAX_INSTANCES, "instances")]
            found = [str(answer.SOPInstanceUID) for answer in answers]
            others = [str(answer.get("SeriesInstanceUID") or series_uid) for answer in answers]
        if not all(map(is_uid, found)):
            raise impossible("a SOPInstanceUID that is none")
        if set(others) - {series_uid}:
            raise impossible("an instance of another series")
        if len(set(found)) < len(found):
            raise impossible("the same instance twice")
        if not set(found) - uids or len(uids) > MAX_INSTANCES:
            return uids
        uids |= set(found)


def _told_apart(instance: Dataset, wanted: tuple[str, str, str]) -> str:
    """What an instance is instead of the one that was asked for, in words; empty if it is that one."""
    for keyword, uid in zip(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), wanted):
        if str(instance.get(keyword, "")) != uid:
            return f"an image of another {keyword.removesuffix('InstanceUID').replace('SOP', 'instance').lower()}"
    return ""


def _check_patient(instance: Dataset, patient: list[str], series: RemoteSeries) -> None:
    own = "\\".join(str(instance.get(keyword, "")) for keyword in ("PatientID", "IssuerOfPatientID"))
    patient.append(own)
    if own != patient[0]:
        raise CaseError(
            f"series {series.number}: the server sent images of two patients in one study",
            remedy="Do not use this study; ask who runs the server.",
        )


def _keep_only(folder: Path, names: Sequence[str]) -> None:
    """Remove from what an earlier pull left whatever is not wanted."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names or path.is_symlink() or not path.is_file():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _file_name(uid: str) -> str:
    return f"{uid}.dcm"


def is_uid(text: str) -> bool:
    """Whether a text is a UID of DICOM: numbers and dots, at most 64 characters."""
    return len(text) <= 64 and bool(UID.fullmatch(text))  # pydicom would print a wrong one


def bounded(answer: Any, most: int, what: str) -> Iterator[Any]:
    """The entries of an answer.

    Raises:
        CaseError: if it is no list, or longer than anything that can be.
    """
    if not isinstance(answer, list):
        raise impossible("something else than a list")
    if len(answer) > most:
        raise impossible(f"more than {most} {what}")
    return iter(answer)


def impossible(found: str) -> CaseError:
    """The error that a server says what is not true of any study."""
    return CaseError(
        "the server's description of the series is impossible", found=found, remedy="Ask who runs the server."
    )
