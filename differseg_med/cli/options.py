"""What commands on cohort tables share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from differseg_med.progress import progress_bar

Table = Annotated[Path, typer.Argument(help="Cohort table (CSV).", exists=True, dir_okay=False)]
Out = Annotated[Path, typer.Option("--out", help="Cohort table to write (CSV).")]


def names(text: str) -> list[str]:
    """The names in ``a, b,c``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def progress(unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A progress bar over ``unit``, on terminals only."""
    return partial(progress_bar, unit=unit)
