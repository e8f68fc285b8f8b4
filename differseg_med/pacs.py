"""Series from a PACS and results back to it, by DICOMweb (PS3.18: QIDO-RS, WADO-RS, STOW-RS) with dicomweb-client.

User and password come from the environment, ``DIFFERSEG_PACS_USER`` and ``DIFFERSEG_PACS_PASSWORD``: command lines are
seen by others and stay in histories. Neither they, addresses with paths, nor anything of a patient goes into messages.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from differseg_med.atomic import replacing
from differseg_med.errors import CaseError
from differseg_med.io.dicom.files import quiet
from differseg_med.progress import Progress

logger = logging.getLogger(__name__)

USER, PASSWORD = "DIFFERSEG_PACS_USER", "DIFFERSEG_PACS_PASSWORD"

AS_STORED = (("application/dicom", "*"),)
"""Ask for instances in the transfer syntax that the server holds: nothing is decoded or compressed again."""

ATTEMPTS = 3
"""How often a request is sent to a server that is busy."""

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

Client = Any


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


def connect(
    url: str, *, ca_file: str | Path | None = None, client_certificate: str | Path | None = None, timeout: float = 60.0
) -> Client:
    """A client of a DICOMweb server.

    Args:
        url: root of the service, for example ``https://pacs.example.org/dicom-web``.
        ca_file: certificates (PEM) that the server's is checked with; default: those of the ``certifi`` package.
        client_certificate: own certificate with its key (PEM), if the server asks for one.
        timeout: seconds to wait for an answer.

    Raises:
        CaseError: if dicomweb-client is not installed, the address is unusable, or a file is not there.
    """
    host = _host(url)
    api, sessions = _dicomweb("api"), _dicomweb("session_utils")
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if (user is None) != (password is None):
        missing = USER if user is None else PASSWORD
        raise CaseError("user and password belong together", expected=f"{missing} in the environment", found="nothing")
    if user is not None and urlsplit(url).scheme == "http" and urlsplit(url).hostname not in THIS_MACHINE:
        logger.warning("%s: the password travels unencrypted over http; use https", host)
    session = sessions.create_session() if user is None else sessions.create_session_from_user_pass(user, password)
    session.trust_env = False  # a .netrc must not answer in place of the two variables
    for file in (ca_file, client_certificate):
        if file is not None and not Path(file).is_file():
            raise CaseError("there is no such certificate", file=file)
    session = sessions.add_certs_to_session(
        session, ca_file and str(ca_file), client_certificate and str(client_certificate)
    )
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)  # it logs whole addresses
    client = api.DICOMwebClient(url=url.rstrip("/"), session=session, timeout=timeout)
    client.set_http_retry_params(max_attempts=ATTEMPTS, wait_exponential_multiplier=500)
    return client


def list_series(client: Client, study_uid: str) -> list[RemoteSeries]:
    """The series of a study, by number.

    Raises:
        CaseError: if this is no UID, or the server does not answer, refuses, or has no such study.
    """
    if not UID(study_uid).is_valid:
        raise CaseError("this is not a StudyInstanceUID", expected="numbers and dots, for example 1.2.840.113619.2.55")
    fields = ["SeriesNumber", "Modality", "NumberOfSeriesRelatedInstances"]
    with _in_words(client):
        found = client.search_for_series(study_instance_uid=study_uid, fields=fields)
    series = []
    for answer in found:
        tags = pydicom.Dataset.from_json(answer)
        count = tags.get("NumberOfSeriesRelatedInstances")
        series.append(
            RemoteSeries(
                uid=str(tags.SeriesInstanceUID),
                number=int(tags.get("SeriesNumber") or 0),
                modality=str(tags.get("Modality") or "unknown"),
                instances=None if count is None else int(count),
            )
        )
    if not series:
        raise CaseError(
            "the server has no series of this study",
            expected="a StudyInstanceUID that it knows",
            remedy="Check the UID.",
        )
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
        CaseError: as `list_series`, for a series that the study has not, or one that came incomplete.
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
    return [_pull_series(client, study_uid, s, Path(folder) / names[s.uid], progress) for s in wanted]


def push(client: Client, files: Sequence[str | Path]) -> None:
    """Store DICOM files, each checked by fetching it again.

    Raises:
        CaseError: for a file that is not DICOM, one that the server does not take, or takes and gives back changed.
    """
    for file in map(Path, files):
        try:
            with quiet():
                dataset = pydicom.dcmread(file)
        except (OSError, InvalidDicomError) as error:
            raise CaseError(
                "this is not a DICOM file", file=file, remedy="Export the mask as dicom-seg first."
            ) from error
        with _in_words(client, file):
            answer = client.store_instances([dataset], study_instance_uid=str(dataset.StudyInstanceUID))
        if refused := answer.get("FailedSOPSequence"):
            reason = int(refused[0].get("FailureReason", 0))  # PS3.18 annex I.2
            raise CaseError("the server did not store the file", file=file, found=f"failure reason {reason:#06x}")
        uids = (str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID))
        with _in_words(client, file):
            back = client.retrieve_instance(*uids, media_types=AS_STORED)
        if back.get("PixelData") != dataset.get("PixelData"):
            raise CaseError("the server gives back other pixels than it was given", file=file)
        logger.info("stored and checked: %s", file.name)


def _pull_series(client: Client, study_uid: str, series: RemoteSeries, folder: Path, progress: Progress) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _in_words(client):
            got = 0
            for instance in progress(client.iter_series(study_uid, series.uid, media_types=AS_STORED)):
                got += 1
                with replacing(partial / f"{got:05d}.dcm") as temporary:
                    instance.save_as(temporary, enforce_file_format=True)
        if not got or (series.instances is not None and got != series.instances):
            raise CaseError(
                f"series {series.number} came incomplete",
                expected=f"{series.instances} instances",
                found=got,
                remedy="Try again; else ask who runs the server.",
            )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: %d instances", folder.name, got)
    return folder


@contextmanager
def _in_words(client: Client, file: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong on the way into a `CaseError` that names the host, never a user or a patient."""
    requests = import_module("requests")
    host = _host(client.base_url)
    try:
        with quiet():
            yield
    except requests.exceptions.SSLError as error:
        remedy = "Give the certificate of who signed it with --ca-file."
        raise CaseError(f"the certificate of {host} is not trusted", file=file, remedy=remedy) from error
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code
        meaning = {
            401: f"it asks for a user; set {USER} and {PASSWORD}",
            403: "this user may not do that",
            404: "it does not know the study, the series or the path of the service",
            409: "it refuses the instance",
        }.get(status, "see the server's log")
        raise CaseError(f"{host} answered {status}: {meaning}", file=file) from error
    except requests.exceptions.RequestException as error:
        remedy = "Check address, port and network."
        raise CaseError(f"{host} does not answer", file=file, found=type(error).__name__, remedy=remedy) from error


def _host(url: str) -> str:
    """The host of an address, for messages.

    Raises:
        CaseError: if it is no address of a web server, or holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CaseError("this is not the address of a DICOMweb server", expected="https://HOST[:PORT]/dicom-web")
    if parts.username or parts.password:
        raise CaseError("no user or password in the address", remedy=f"Set {USER} and {PASSWORD} in the environment.")
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname


def _dicomweb(module: str) -> Any:
    try:
        return import_module(f"dicomweb_client.{module}")
    except ImportError as error:
        remedy = 'pip install "differseg-med[pacs]"'
        raise CaseError("a PACS needs the package dicomweb-client, which is not installed", remedy=remedy) from error
