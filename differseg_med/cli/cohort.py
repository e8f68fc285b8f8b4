"""Commands that make, check and convert cohort tables."""

from __future__ import annotations

import typer

app = typer.Typer(help="Make, check and convert cohort tables.", no_args_is_help=True)
importing = typer.Typer(help="Make a cohort table from a data set in a known layout.", no_args_is_help=True)
app.add_typer(importing, name="import")
