"""What a run must not write: the files that its cohort names, and what another of its cases has written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from differseg_med.errors import CaseError

_REMEDY = "Choose another folder with --out, apart from the data."


@dataclass(frozen=True)
class Guard:
    """The rules of one run.

    Args:
        out: where it writes.
        files, folders: real paths of its inputs.
        places: device and number of the inputs on disk, which tell a link from another file.
        written: by real path the case that has written it.
    """

    out: str
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    places: frozenset[tuple[int, int]] = frozenset()
    written: dict[str, str] = field(default_factory=dict)

    def owner_of_data(self, path: Path) -> bool:
        """Whether a file to be written is, or lies within, an input."""
        real = real_path(path)
        if real in self.files or not self.places.isdisjoint(_places(path)):
            return True
        # In a folder of DICOM nothing may be added either, but for results in a folder of their own inside it.
        ours = self.out if _within(real, self.out) else ""
        return any(str(parent) in self.folders for parent in Path(real).parents if not _within(ours, str(parent)))


_guards: ContextVar[tuple[Guard, ...]] = ContextVar("guards", default=())
_case: ContextVar[str] = ContextVar("case", default="")


@contextmanager
def protecting(out: str | Path, inputs: Iterable[Path]) -> Iterator[Guard]:
    """Within the block no file of ``inputs`` is ever written by `differseg_med.atomic.replacing`.

    Args:
        out: the folder that the run writes into.
        inputs: files, and folders whose files are one input (DICOM). Links are followed, and protected themselves.
    """
    files, folders, places = set(), set(), set()
    for path in inputs:
        names = {real_path(path), os.path.realpath(path)}
        if is_folder(path):
            folders |= names
        else:
            files |= names
            places |= set(_places(path))
    guard = Guard(real_path(Path(out)), frozenset(files), frozenset(folders), frozenset(places))
    token = _guards.set((*_guards.get(), guard))
    try:
        yield guard
    finally:
        _guards.reset(token)


@contextmanager
def writing_for(case_id: str) -> Iterator[None]:
    """Within the block everything is written for one case; empty for what cases share."""
    token = _case.set(case_id)
    try:
        yield
    finally:
        _case.reset(token)


def check_target(path: Path) -> None:
    """Refuse to write a file that is an input of the run, or another case's.

    Raises:
        CaseError: saying which.
    """
    for guard in _guards.get():
        if guard.owner_of_data(path):
            raise CaseError("this file belongs to the cohort's data, which is never written", file=path, remedy=_REMEDY)
        if case := _case.get():
            owner = guard.written.setdefault(real_path(path), case)
            if owner != case:
                raise CaseError(
                    f"the file of this name is that of case {owner}, which is kept",
                    file=path,
                    remedy="Give the cases ids that differ in letters and digits.",
                )


def holds_data(folder: Path) -> bool:
    """Whether an input of the run in progress lies in a folder, at any depth."""
    real = os.path.realpath(folder)
    return any(_within(path, real) for guard in _guards.get() for path in (*guard.files, *guard.folders))


def is_folder(path: Path) -> bool:
    """Whether there is a folder here; False also where the system cannot tell: a name too long, no permission."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def real_path(path: Path) -> str:
    """Where a name stands, whatever links lead there; the name itself is not followed."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the last link
    return os.path.join(os.path.realpath(absolute.parent), absolute.name)  # noqa: PTH118


def _within(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _places(path: Path) -> Iterator[tuple[int, int]]:
    with suppress(OSError, ValueError):
        found = path.stat()
        yield found.st_dev, found.st_ino
