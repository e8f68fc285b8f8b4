"""What every test runs under: one thread, no display, no network."""

from __future__ import annotations

import gc
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.browser import Page, chromium

# Before torch, matplotlib and the hub client read them, at import. Processes that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests compare bytes, and exporting a network takes seconds: tests/backends chooses the engines by name.
os.environ.setdefault("DIFFERSEG_BACKEND", "torch")
os.environ.setdefault("DIFFERSEG_PRECISION", "float32")
# Tests of messages see them whole; tests/test_privacy.py takes it away and sees what users see.
os.environ.setdefault("DIFFERSEG_VERBOSE_PATHS", "1")

# What is imported stays to the end: looking through it for what could go is a twentieth of the time.
gc.disable()

SHARED = Path(__file__).parents[2] / "shared"
_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    """Connect within this machine only (data loaders and process groups do)."""
    if self.family != socket.AF_UNIX and (
        not isinstance(address, tuple) or address[0] not in ("127.0.0.1", "::1", "localhost")
    ):
        raise RuntimeError(f"a test tried to reach {address}: tests need no network")
    _connect(self, address)


def pytest_collection_finish() -> None:
    """Leave what was imported out of all later looks."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # data sets of DICOM and graphs of networks are thousands of objects that stay


@pytest.fixture(scope="session", autouse=True)
def _few_pixels() -> Iterator[None]:
    """Draw every figure with a tenth of its pixels: most tests only ask whether it is there."""
    from differseg_med.reports import sheets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheets, "DPI", 30)
        yield


@pytest.fixture(scope="module")
def all_pixels() -> Iterator[None]:
    """Draw figures as users get them: for tests that look at them."""
    from differseg_med.reports import sheets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheets, "DPI", 110)
        yield


@pytest.fixture(scope="session", autouse=True)
def _forks_may_train() -> None:
    """Make the first backward pass of this process before any test.

    Torch then counts its devices. Where a test has exported or compiled a network it would count the fake ones too, and
    forbid every fork of the process a backward pass: tests that train in a fork would depend on what ran before.
    """
    import torch

    torch.ones((), requires_grad=True).backward()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """With ``CI=true`` a skipped test is a failed one: a gate that is never run is no gate.

    Data that lie beside the project (``../shared``) are not part of a clone: where that folder is missing, tests on it
    may be skipped, and pytest's ``-ra`` lists them. ``tests/data`` has the like for the network and for a case.
    """
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "shared" not in reason or SHARED.is_dir():
            report.outcome, report.longrepr = "failed", f"with CI=true nothing may be skipped: {reason}"


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_here)
        yield


@pytest.fixture(scope="session")
def require_program() -> Callable[..., Path]:
    """``require_program(name, package="")``: the path of a program that a Debian package brings.

    Where it is missing the test skips by the package's name; with ``CI=true`` it fails (above).
    """

    def find(name: str, package: str = "") -> Path:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if found:
            return Path(found)
        pytest.skip(f"no program {name}: install the Debian package {package or name.lower()}")

    return find


@pytest.fixture(scope="session")
def browser(require_program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests of pages."""
    with chromium(require_program("chromium"), tmp_path_factory.mktemp("profile")) as page:
        yield page
