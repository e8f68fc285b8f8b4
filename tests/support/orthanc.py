"""A real PACS on this machine; a helper, not a test."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SECRET = "tulip-7431"


@dataclass(frozen=True)
class Orthanc:
    """A running server."""

    url: str
    study: str
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, file], stdout=log, stderr=log)
    try:
        wait_for("Orthanc", port, process, folder / "orthanc.log")
        yield f"http://localhost:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(server: str, port: int, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers on its port; ``server`` is its name for the message of one that does not."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{server} did not start:\n{log.read_text()[-2000:]}")


def fill(url: str, files: Iterable[Path]) -> None:
    """Store files by Orthanc's own REST interface, not by our code."""
    for file in files:
        where = f"{url.removesuffix('/dicom-web')}/instances"
        requests.post(where, data=file.read_bytes(), auth=("reader", SECRET), timeout=60).raise_for_status()
