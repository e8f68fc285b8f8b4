"""The progress bar of everything that takes long."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""What wraps the items of a job and shows how far it is, `progress_bar` for example."""


def progress_bar(items: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """A bar of tqdm over ``items``, on terminals only; ``settings`` are those of tqdm."""
    columns, rows = shutil.get_terminal_size()  # tqdm alone draws nothing where it is told 0 (script, docker exec)
    return tqdm(items, disable=None, ncols=columns, nrows=rows, **settings)
