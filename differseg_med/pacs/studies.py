"""Which studies of a server are wanted: a query by words that name no patient, and what the server answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pydicom.dataset import Dataset

from differseg_med.errors import CaseError, printable
from differseg_med.pacs.connection import Client, errors_in_words
from differseg_med.pacs.series import MAX_INSTANCES, MODALITY, bounded, impossible, is_uid

MAX_STUDIES, _PAGE = 100_000, 500

_DAYS = re.compile(r"last (\d{1,4}) days?")
_DATE = re.compile(r"\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8}")
_WORDS = re.compile(r"[\w *?.,+()/-]{1,64}")

KEYWORDS = ("StudyDate", "ModalitiesInStudy", "StudyDescription")
"""What a rule may ask for. Names and numbers of patients are not: a rule stands in histories and process lists."""


@dataclass(frozen=True)
class RemoteStudy:
    """A study as the server describes it; nothing that names the patient.

    Args:
        uid: StudyInstanceUID.
        instances: NumberOfStudyRelatedInstances, None if the server does not say.
    """

    uid: str
    instances: int | None


def parse_rule(texts: Sequence[str], today: date) -> dict[str, str]:
    """``KEYWORD=VALUE`` as filters of a query.

    Args:
        texts: ``StudyDate=20260101-20260131`` or ``StudyDate=last 3 days``, ``ModalitiesInStudy=MR``,
            ``StudyDescription=*thigh*``.
        today: the last of the days.

    Raises:
        CaseError: for another keyword, one that is given twice, or a value that is none of its kind.
    """
    found: dict[str, str] = {}
    for text in texts:
        keyword, equals, value = (part.strip() for part in text.partition("="))
        if keyword not in KEYWORDS or not equals or keyword in found:
            problem = f"--rule {printable(keyword)[:40]} is {'given twice' if keyword in found else 'not understood'}"
            raise CaseError(problem, expected=f"KEYWORD=VALUE, KEYWORD one of {', '.join(KEYWORDS)}")
        if keyword == "StudyDate" and (days := _DAYS.fullmatch(value)):
            value = f"{today - timedelta(days=int(days[1]) - 1):%Y%m%d}-{today:%Y%m%d}"
        form = {"StudyDate": _DATE, "ModalitiesInStudy": MODALITY}.get(keyword, _WORDS)
        if not form.fullmatch(value):
            wanted = {"StudyDate": "20260131, 20260101-20260131 or last 3 days", "ModalitiesInStudy": "MR, for example"}
            raise CaseError(f"--rule {keyword} has no such value", expected=wanted.get(keyword, "words, * and ?"))
        found[keyword] = value
    return found


def list_studies(client: Client, filters: Mapping[str, str]) -> list[RemoteStudy]:
    """The studies that a query finds, by UID.

    Raises:
        CaseError: if the server does not answer, refuses, or describes studies with what cannot be.
    """
    found: dict[str, RemoteStudy] = {}
    while True:
        with errors_in_words(client):
            page: Any = client.search_for_studies(
                search_filters=dict(filters),
                fields=["NumberOfStudyRelatedInstances"],
                offset=len(found),
                limit=_PAGE,
            )
            studies = [_described(Dataset.from_json(answer)) for answer in bounded(page, MAX_STUDIES, "studies")]
        if len({study.uid for study in studies}) < len(studies):
            raise impossible("the same study twice")
        new = {study.uid: study for study in studies if study.uid not in found}
        if not new or len(found) > MAX_STUDIES:
            return sorted(found.values(), key=lambda study: study.uid)
        found |= new


def _described(answer: Dataset) -> RemoteStudy:
    uid, count = str(answer.get("StudyInstanceUID", "")), answer.get("NumberOfStudyRelatedInstances")
    if not is_uid(uid):
        raise impossible("a StudyInstanceUID that is none")
    if count is not None and not 0 <= int(count) <= MAX_INSTANCES:
        raise impossible("a number that cannot be")
    return RemoteStudy(uid, None if count is None else int(count))
