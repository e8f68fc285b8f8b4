"""A client of a DICOMweb server, and what goes wrong with one in words.

User and password come from the environment, ``DIFFERSEG_PACS_USER`` and ``DIFFERSEG_PACS_PASSWORD``: command lines are
seen by others and stay in histories.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from differseg_med.errors import CaseError
from differseg_med.io.dicom.files import quiet
from differseg_med.pacs.bounds import BoundedAdapter, RefusedAnswerError

logger = logging.getLogger(__name__)

USER, PASSWORD = "DIFFERSEG_PACS_USER", "DIFFERSEG_PACS_PASSWORD"

AS_STORED = (("application/dicom", "*"),)
"""Ask for instances in the transfer syntax that the server holds: nothing is decoded or compressed again."""

ATTEMPTS = 3
"""How often a request is sent to a server that is busy."""

WAIT_MS = 500
"""Half of what is waited before the second attempt; it doubles with each."""

REDIRECTS = 3

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

MEANINGS = {
    401: f"it asks for a user; set {USER} and {PASSWORD}",
    403: "this user may not do that",
    404: "it does not know the study, the series or the path of the service",
    409: "it refuses the instance",
    429: f"it is busy, also after {ATTEMPTS} attempts; try again later",
    503: f"it is busy, also after {ATTEMPTS} attempts; try again later",
    504: f"it is busy, also after {ATTEMPTS} attempts; try again later",
}

Client = Any


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
    host = host_of(url)
    api, sessions = _dicomweb("api"), _dicomweb("session_utils")
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if (user is None) != (password is None):
        missing = USER if user is None else PASSWORD
        raise CaseError("user and password belong together", expected=f"{missing} in the environment", found="nothing")
    if user is not None and urlsplit(url).scheme == "http" and urlsplit(url).hostname not in THIS_MACHINE:
        logger.warning("%s: the password travels unencrypted over http; use https", host)
    session = sessions.create_session() if user is None else sessions.create_session_from_user_pass(user, password)
    session.trust_env = False  # a .netrc must not answer in place of the two variables
    session.max_redirects = REDIRECTS
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(timeout))
    for file in (ca_file, client_certificate):
        if file is not None and not Path(file).is_file():
            raise CaseError("there is no such certificate", file=file)
    session = sessions.add_certs_to_session(
        session, ca_file and str(ca_file), client_certificate and str(client_certificate)
    )
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)  # it logs whole addresses
    client = api.DICOMwebClient(url=url.rstrip("/"), session=session, timeout=timeout)
    client.set_http_retry_params(max_attempts=ATTEMPTS, wait_exponential_multiplier=WAIT_MS)
    return client


@contextmanager
def errors_in_words(client: Client, file: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong on the way into a `CaseError` that names the host, never a user or a patient."""
    exceptions = import_module("requests").exceptions
    host = host_of(client.base_url)
    try:
        with quiet():
            yield
    except CaseError:
        raise
    except RefusedAnswerError as error:
        raise CaseError(f"{host}: {error}", file=file, remedy="Ask who runs the server.") from error
    except exceptions.SSLError as error:
        remedy = "Give the certificate of who signed it with --ca-file."
        raise CaseError(f"the certificate of {host} is not trusted", file=file, remedy=remedy) from error
    except exceptions.HTTPError as error:
        raise _answered(host, error.response.status_code, file) from error
    except exceptions.JSONDecodeError as error:
        raise _no_dicom(host, "text that is not JSON", file) from error
    except exceptions.RequestException as error:
        remedy = "Check address, port and network."
        raise CaseError(f"{host} does not answer", file=file, found=type(error).__name__, remedy=remedy) from error
    except OSError as error:
        problem = f"the file could not be read or written: {error.strerror or type(error).__name__}"
        raise CaseError(problem, file=file, remedy="Check the free space and the permissions.") from error
    except Exception as error:  # whatever a library makes of bytes that are no DICOM
        response = getattr(getattr(error, "last_attempt", None), "value", None)
        if response is not None:  # retrying gave up
            raise _answered(host, response.status_code, file) from error
        raise _no_dicom(host, type(error).__name__, file) from error


def _answered(host: str, status: int, file: Path | None) -> CaseError:
    return CaseError(f"{host} answered {status}: {MEANINGS.get(status, 'see the log of the server')}", file=file)


def _no_dicom(host: str, found: str, file: Path | None) -> CaseError:
    remedy = "Check the path of the service; else ask who runs the server."
    return CaseError(f"{host} answered with what is not DICOMweb", file=file, found=found, remedy=remedy)


def host_of(url: str) -> str:
    """The host of an address, for messages.

    Raises:
        CaseError: if it is no address of a web server, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets or a port that are none
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise CaseError("this is not the address of a DICOMweb server", expected="https://HOST[:PORT]/dicom-web")
    if parts.username or parts.password:
        raise CaseError("no user or password in the address", remedy=f"Set {USER} and {PASSWORD} in the environment.")
    return f"{host}:{port}" if port else host


def _dicomweb(module: str) -> Any:
    try:
        return import_module(f"dicomweb_client.{module}")
    except ImportError as error:
        remedy = 'pip install "differseg-med[pacs]"'
        raise CaseError("a PACS needs the package dicomweb-client, which is not installed", remedy=remedy) from error
