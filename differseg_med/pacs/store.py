"""Stores files on a server, and believes it only what it gives back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from differseg_med.errors import CaseError
from differseg_med.io.dicom.files import quiet
from differseg_med.pacs.connection import AS_STORED, Client, errors_in_words
from differseg_med.pacs.series import is_uid

logger = logging.getLogger(__name__)

NOT_FOUND = 404

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

_IDENTITY = (*UIDS, "SOPClassUID", "Modality", "FrameOfReferenceUID", "PatientID", "PatientName", "PatientBirthDate")
"""What must come back as it was sent: whose it is, and what it belongs to."""


def push(client: Client, files: Sequence[str | Path]) -> None:
    """Store DICOM files, each checked by fetching it again.

    Raises:
        CaseError: for a file that is not DICOM, one that the server does not take, or takes and gives back changed.
    """
    for file in map(Path, files):
        dataset = _read(file)
        with errors_in_words(client, file):
            answer = client.store_instances([dataset], study_instance_uid=str(dataset.StudyInstanceUID))
            refused = answer.get("FailedSOPSequence")
            reason = int(refused[0].get("FailureReason", 0)) if refused else 0  # PS3.18 annex I.2
        if refused:
            raise CaseError("the server did not store the file", file=file, found=f"failure reason {reason:#06x}")
        with errors_in_words(client, file):
            back = client.retrieve_instance(*(str(dataset[uid].value) for uid in UIDS), media_types=AS_STORED)
        _check_same(back, dataset, file)
        logger.info("stored and checked: %s", file.name)


def is_on_server(client: Client, file: str | Path) -> bool:
    """Whether the server has a DICOM file already, under its UIDs.

    Raises:
        CaseError: for a file that is not DICOM, if the server does not answer, or if it has another under these UIDs.
    """
    file = Path(file)
    dataset = _read(file)
    missing = import_module("requests").exceptions.HTTPError
    with errors_in_words(client, file):
        try:
            back = client.retrieve_instance(*(str(dataset[uid].value) for uid in UIDS), media_types=AS_STORED)
        except missing as error:
            if error.response.status_code == NOT_FOUND:
                return False
            raise
    _check_same(back, dataset, file)
    return True


def _check_same(back: Dataset, dataset: Dataset, file: Path) -> None:
    with quiet():
        changed = [keyword for keyword in _IDENTITY if str(back.get(keyword, "")) != str(dataset.get(keyword, ""))]
        same = back.get("PixelData") == dataset.get("PixelData")
    if changed:
        raise CaseError(
            "the server gives the file back as another's",
            file=file,
            found=f"other {', '.join(changed)}",
            remedy="Have it deleted there, and ask who runs the server.",
        )
    if not same:
        raise CaseError("the server gives back other pixels than it was given", file=file)


def _read(file: Path) -> Dataset:
    remedy = "Export the mask as dicom-seg first."
    try:
        with quiet():
            dataset = pydicom.dcmread(file)
            uids = [str(dataset.get(uid, "")) for uid in UIDS]
    except (OSError, InvalidDicomError) as error:
        raise CaseError("this is not a DICOM file", file=file, remedy=remedy) from error
    except Exception as error:  # bytes that begin as DICOM
        raise CaseError("the DICOM file is damaged", file=file, found=type(error).__name__) from error
    if not all(map(is_uid, uids)):
        raise CaseError("the file has no valid study, series and instance UID", file=file, remedy=remedy)
    return dataset
