"""Real servers on this machine; a helper, not a test."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def listening(server: str, command: Sequence[str | Path], port: int, log: Path, **environment: str) -> Iterator[None]:
    """Run a server, whose name is for messages, once it answers on its port; it ends with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        wait_for(server, port, process, log)
        yield
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
