"""Exported networks on disk, so that they are exported once per weights: a folder of the user's own, with a bound."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from differseg_med.atomic import replacing
from differseg_med.runs.cache import prune

FOLDER_VARIABLE = "DIFFERSEG_CACHE"
"""Environment variable with another folder; empty for none at all."""

SUFFIX = ".program"
MAX_DAYS, MAX_BYTES = 30, 2_000_000_000
"""What nobody has used for so long is removed when another is stored; then the oldest, beyond this size."""

_HASH_BYTES = 32


def programs_folder() -> Path | None:
    """Where exported networks lie; None if the user wants none, or others could have written there.

    A program is native code's input: it is read only from a folder that belongs to the user alone.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named) if named else Path(base) / "differseg_med" / "programs"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        others = 0 if os.name == "nt" else found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISDIR(found.st_mode) and own and not others:
            return folder
    return None


def is_stored(folder: Path, key: str) -> bool:
    """Whether there is an entry."""
    return (folder / f"{key}{SUFFIX}").is_file()


def stored(folder: Path | None, key: str, make: Callable[[], bytes]) -> bytes:
    """The content of an entry; made and stored if it is not there, or is damaged.

    Args:
        folder: of the cache; None makes it each time.
        key: says all that decides the content.
        make: makes it.
    """
    if folder is None:
        return make()
    path = folder / f"{key}{SUFFIX}"
    with suppress(OSError):
        held = path.read_bytes()
        if hashlib.sha256(held[_HASH_BYTES:]).digest() == held[:_HASH_BYTES]:
            os.utime(path)  # in use
            return held[_HASH_BYTES:]
    content = make()
    with suppress(OSError):  # a full disk costs time, not the run
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        prune(folder, SUFFIX, days=MAX_DAYS, limit=MAX_BYTES)
    return content
