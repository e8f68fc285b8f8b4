"""The progress bar of everything that takes long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""What wraps the items of a job and shows how far it is, `progress_bar` for example."""

_shown: ContextVar[bool] = ContextVar("shown", default=True)


def progress_bar(items: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """A bar of tqdm over ``items``, on terminals only; ``settings`` are those of tqdm."""
    columns, rows = shutil.get_terminal_size()  # tqdm alone draws nothing where it is told 0 (script, docker exec)
    return tqdm(items, disable=no_bar(), ncols=columns, nrows=rows, **settings)


def no_bar() -> bool | None:
    """What tqdm is to be told as ``disable``: None draws on terminals only, and of several processes in the first."""
    return None if _shown.get() and os.environ.get("RANK", "0") == "0" else True


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Whether bars are drawn within this context."""
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)
