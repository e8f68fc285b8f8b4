"""One process at a time writes into an output folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from differseg_med.atomic import temporary_beside
from differseg_med.errors import CaseError
from differseg_med.runs.shards import shards_in, whole_run

LOCK_FILE = ".run.lock"
_held: dict[str, int] = {}
"""Descriptors of the locks of this process, by real path."""


def _forget() -> None:
    """A child process holds no lock of its parent: else the folder of a killed run would stay locked by it."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which is created; gives whether it was taken here and not around this block already.

    The system lets go of it when the process ends, however it ends, so that a killed run locks nobody out. Of other
    machines only the file itself is seen, where the disk does not share locks.

    The shards of a run write at the same time, but not while somebody works on the whole.

    Raises:
        CaseError: if another process holds it, with its machine and number, or the folder cannot be written.
    """
    name = os.path.realpath(folder)
    if name in _held:
        yield False
        return
    descriptor = _held[name] = _take(folder)
    try:
        whole = whole_run(name)  # each takes its own first and looks then: of two at least one sees the other
        for other in (whole,) if whole else shards_in(folder).values():
            if os.path.realpath(other) not in _held and (owner := holder(other)) is not None:
                raise _occupied(other, owner)
        yield True
    finally:
        if _held.pop(name, None) is not None:  # else this is a child process that came out of the block
            with suppress(OSError):
                (folder / LOCK_FILE).unlink(missing_ok=True)
            os.close(descriptor)


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds the lock of a folder, ``host`` and ``pid``; None if nobody does, or who did is gone."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        return _owner(descriptor) if not _flock(descriptor) else _elsewhere(descriptor)
    finally:
        os.close(descriptor)


def _take(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = _made(folder / LOCK_FILE)
        if made is not None:
            return made
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except (FileExistsError, NotADirectoryError) as error:
        raise CaseError("the output folder is a file", file=folder, remedy="Choose another --out.") from error
    except OSError as error:
        remedy = "Check the permissions and the free space, or choose another --out."
        raise CaseError(
            "the output folder cannot be written", file=folder, found=error.strerror, remedy=remedy
        ) from error
    owner = _owner(descriptor) if not _flock(descriptor) else _elsewhere(descriptor)
    if owner is None and not _is_there(folder, descriptor):  # its holder has just finished
        os.close(descriptor)
        return _take(folder)
    if owner is not None:
        os.close(descriptor)
        raise _occupied(folder, owner)
    content = _own_name()
    os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)  # blanks over what was longer: never half
    os.ftruncate(descriptor, len(content))
    return descriptor


def _made(path: Path) -> int | None:
    """A lock that is held and has its owner's name from the moment it is there; None if there is one already.

    None too where the disk has no hard links: there it is made empty, and filled.
    """
    temporary = temporary_beside(path)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        _flock(descriptor)
        os.pwrite(descriptor, _own_name(), 0)
        os.link(temporary, path)
    except OSError:
        os.close(descriptor)
        return None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return descriptor


def _own_name() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()


def _occupied(folder: Path, owner: dict[str, Any]) -> CaseError:
    return CaseError(
        "another run is writing into this folder",
        file=folder,
        found=f"process {owner.get('pid', '?')} on {owner.get('host', '?')}",
        remedy=f"Wait for it or choose another --out; if it is gone for sure, remove {LOCK_FILE} there.",
    )


def _is_there(folder: Path, descriptor: int) -> bool:
    """Whether the file that is open is still the one of this name."""
    with suppress(OSError):
        return os.path.samestat((folder / LOCK_FILE).stat(), os.fstat(descriptor))
    return False


def _flock(descriptor: int) -> bool:
    """Take the system's lock if it is free. Windows has none of this kind: there the file alone counts."""
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        return True
    return True


def _elsewhere(descriptor: int) -> dict[str, Any] | None:
    """The owner if it is another machine; a lock of this one that could be taken is of a process that is gone."""
    owner = _owner(descriptor)
    return owner if owner and owner.get("host") != socket.gethostname() else None


def _owner(descriptor: int) -> dict[str, Any]:
    with suppress(ValueError, OSError):
        content = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
        return content if isinstance(content, dict) else {}
    return {}
