"""A real PACS on this machine; a helper, not a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from support.servers import free_port, listening

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SECRET = "tulip-7431"


@dataclass(frozen=True)
class Orthanc:
    """A running server."""

    url: str
    study: str
    log: Path


@contextmanager
def orthanc(require_program: Callable[..., Path], folder: Path) -> Iterator[str]:
    """Start Orthanc with an empty store on a free port of this machine; it ends with the block."""
    program = require_program("Orthanc", "orthanc")
    if not PLUGIN.is_file():
        pytest.skip("install the Debian package orthanc-dicomweb")
    port = free_port()
    configuration = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"reader": SECRET},
        "DicomWeb": {"Enable": True},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    with listening("Orthanc", [program, file], port, folder / "orthanc.log"):
        yield f"http://localhost:{port}/dicom-web"


def fill(url: str, files: Iterable[Path]) -> None:
    """Store files by Orthanc's own REST interface, not by our code."""
    for file in files:
        where = f"{url.removesuffix('/dicom-web')}/instances"
        requests.post(where, data=file.read_bytes(), auth=("reader", SECRET), timeout=60).raise_for_status()
