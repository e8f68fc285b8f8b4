"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from differseg_med.errors import CaseError
from differseg_med.guard import check_target

_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.[A-Za-z.]+)?")
"""Names that `temporary_beside` gives."""


_announced: ContextVar[Mapping[Path, Callable[[Path], None]]] = ContextVar("announced")


@contextmanager
def announcing(path: str | Path, tell: Callable[[Path], None]) -> Iterator[None]:
    """Have `replacing` call ``tell`` with the whole, still temporary file before it becomes ``path``.

    Whoever keeps a record of what was written has it before the file is there, so that no kill comes in between.
    """
    token = _announced.set({**_announced.get({}), Path(path).absolute(): tell})
    try:
        yield
    finally:
        _announced.reset(token)


@contextmanager
def replacing(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; what the block wrote there then becomes ``path`` in one step.

    Whoever looks at ``path`` sees the old file or the new one, never half of one, even if the process is killed in
    between. An error inside the block leaves ``path`` as it was and removes the temporary file.

    Args:
        path: the final name; its folder is created.
        suffix: ending that the writer needs to see, for example ``.nii.gz``.

    Raises:
        CaseError: if a run is going on that must not write this file, see `differseg_med.guard`.
    """
    path = Path(path)
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path, suffix)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # the rename must not reach the disk before the content
        if tell := _announced.get({}).get(path.absolute()):
            tell(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """A name beside ``path`` that nothing has; `sweep` removes such a file if its process was killed."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp{suffix}"


@contextmanager
def exporting(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """`replacing` for results of a case: a full disk or a folder without permission is a `CaseError`."""
    try:
        with replacing(path, suffix) as temporary:
            yield temporary
    except OSError as error:
        remedy = "Check the free space and the permissions of the folder, then run the case again."
        if error.errno == errno.ENAMETOOLONG:
            remedy = "Give the case a shorter id, or choose a folder with a shorter path."
        found = error.strerror or type(error).__name__
        raise CaseError(f"the file could not be written: {found}", file=path, remedy=remedy) from error


def sweep(folder: str | Path, older_than: float = 0.0, deep: bool = True) -> int:
    """Remove the temporary files that killed processes left in a folder; returns how many.

    Args:
        folder: nobody else may be writing there, see `differseg_med.runs.lock`.
        older_than: or not for so many seconds.
        deep: also in the folders below.
    """
    names = (Path(folder).rglob if deep else Path(folder).glob)(".*.tmp*")
    left = [path for path in names if _LEFT_OVER.fullmatch(path.name) and path.is_file()]
    found = [path for path in left if not older_than or time.time() - path.stat().st_mtime > older_than]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` in one step; halves of characters (in names of files) are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
