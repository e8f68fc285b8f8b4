"""What commands on cohort tables share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from differseg_med.case import Cohort
from differseg_med.cohort.kinds import kinds_path, parse_kinds, question, with_kinds
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.errors import shown
from differseg_med.progress import progress_bar

Table = Annotated[Path, typer.Argument(help="Cohort table (CSV).", exists=True, dir_okay=False)]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="Kind of image in a column: arterial=ct. Repeatable; see cohort kinds."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a table that was made or changed by hand.")]
Out = Annotated[Path, typer.Option("--out", help="Cohort table to write (CSV).")]


def names(text: str) -> list[str]:
    """The names in ``a, b,c``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def progress(unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A progress bar over ``unit``, on terminals only."""
    return partial(progress_bar, unit=unit)


def read_table(table: Path, modalities: str = "", kinds: Sequence[str] | None = None) -> Cohort:
    """The cohort of a command without a bundle: these modalities (default: the table's), and ``--kind`` options."""
    given = parse_kinds(kinds or ())
    columns = names(modalities) or [*dict.fromkeys([*table_modalities(table), *given])]
    cohort = read_cohort(table, columns)
    if cohort.problem is not None and given:
        raise cohort.problem  # --kind of a column that is not there
    return with_kinds(cohort, given)


def tell_kinds(table: Path, modalities: Iterable[str], kinds: Mapping[str, str]) -> None:
    """Print what a new table says of kinds, and the question that it leaves open."""
    if known := [f"{name} {kinds[name]}" for name in modalities if name in kinds]:
        typer.echo(f"{shown(kinds_path(table))}: {', '.join(known)}")
    if unknown := [name for name in modalities if name not in kinds]:
        typer.echo(f"What kind of image {', '.join(unknown)} holds is not known. Say it: {question(table, unknown)}")
