"""Preprocessed cases on disk: a key for everything that decides them, and a bound."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from differseg_med.atomic import replacing, sweep

logger = logging.getLogger(__name__)

DAYS = 7
"""Entries that no training has used for so long are removed when the next one starts."""

BYTES = 50_000_000_000
"""The oldest entries beyond this size are removed too, but for those of the last day."""


def cached(folder: Path, key: str, make: Callable[[], Any]) -> Any:
    """The content of an entry; made and stored if it is not there, or cannot be read any more.

    Args:
        folder: of the cache.
        key: says all that decides the content.
        make: makes it: tensors, plain values, lists and dictionaries of them.
    """
    path = folder / f"{key}.pt"
    if path.is_file():
        try:
            content = torch.load(path, weights_only=True)
            os.utime(path)  # in use
            return content
        except Exception as error:  # whatever a damaged file does to the reader, the content can be made again
            logger.warning("%s of the cache is damaged (%s): made again", path.name, type(error).__name__)
            path.unlink(missing_ok=True)
    content = make()
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return content


def prune(folder: Path, suffix: str = ".pt", *, days: int = DAYS, limit: int = BYTES) -> int:
    """Remove entries that nobody has used for long, or that are too many, and half-written ones; returns how many.

    Args:
        folder: of the cache.
        suffix: of its entries.
        days: without use, after which an entry goes.
        limit: of their bytes, beyond which the oldest go.
    """
    if not folder.is_dir():
        return 0
    day = 86400
    now, total, removed = time.time(), 0, sweep(folder, older_than=day)  # trainings may share a cache
    entries = [(path.stat(), path) for path in folder.glob(f"*{suffix}")]
    for stat, path in sorted(entries, key=lambda entry: -entry[0].st_mtime):
        total += stat.st_size
        unused = now - stat.st_mtime
        if unused > days * day or (total > limit and unused > day):
            path.unlink(missing_ok=True)
            removed += 1
    return removed
