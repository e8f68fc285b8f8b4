"""What every test runs under: one thread, no display, no network."""

from __future__ import annotations

import os
import socket

import pytest

# Before torch, matplotlib and the hub client read them, at import. Processes that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    """Connect within this machine only (data loaders and process groups do)."""
    if self.family != socket.AF_UNIX and (
        not isinstance(address, tuple) or address[0] not in ("127.0.0.1", "::1", "localhost")
    ):
        raise RuntimeError(f"a test tried to reach {address}: tests need no network")
    _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_here)
        yield
