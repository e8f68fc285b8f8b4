"""What commands on cohort tables share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

Table = Annotated[Path, typer.Argument(help="Cohort table (CSV).", exists=True, dir_okay=False)]
Out = Annotated[Path, typer.Option("--out", help="Cohort table to write (CSV).")]


def names(text: str) -> list[str]:
    """The names in ``a, b,c``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def progress(unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A progress bar over ``unit``, on terminals only."""

    def wrapped(items: Iterable[Any]) -> Iterable[Any]:
        columns, rows = shutil.get_terminal_size()  # tqdm alone draws nothing where it is told 0 (script, docker exec)
        return tqdm(items, unit=unit, disable=None, ncols=columns, nrows=rows)

    return wrapped
