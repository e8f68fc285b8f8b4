"""A real server of MONAI Label on this machine, in an environment of its own; a helper, not a test."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import requests

from support.servers import free_port, listening
from support.synthetic import BUNDLE, ROOT

PYTHON = os.environ.get("DIFFERSEG_LABEL_PYTHON", "")


@contextmanager
def serving(folder: Path, studies: str | Path, options: dict[str, object], **environment: str) -> Iterator[str]:
    """A server with a copy of our app in ``folder / "app"``; its address."""
    if not PYTHON:
        pytest.fail("DIFFERSEG_LABEL_PYTHON is not set: run make test-label")
    app, port = shutil.copytree(ROOT / "monailabel", folder / "app"), free_port()  # the server makes folders in it
    words = ["start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1", "--port", str(port)]
    given = {"bundle": BUNDLE, "python": sys.executable, "device": "cpu", **options}
    conf = [word for name, value in given.items() for word in ("--conf", name, str(value))]
    command = [PYTHON, "-m", "monailabel.main", *words, *conf]
    with listening("MONAI Label", command, port, folder / "log", **environment):
        yield f"http://127.0.0.1:{port}"


def finished(server: str) -> dict[str, Any]:
    """The last training of a server, when it has ended."""
    end = time.monotonic() + 240
    while (task := requests.get(f"{server}/train/", timeout=60).json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < end, task
        time.sleep(1)
    return task


def mask_of(answer: requests.Response, folder: Path) -> nib.Nifti1Image:
    """The mask of an answer of ``/infer``, alone or as a part of several."""
    assert answer.status_code == 200, answer.text[-500:]
    start, end = answer.content.index(b"\x1f\x8b\x08"), answer.content.rfind(b"\r\n--")
    packed = answer.content[start:] if start == 0 else answer.content[start:end]
    (folder / "mask.nii").write_bytes(gzip.decompress(packed))
    return nib.load(folder / "mask.nii")
