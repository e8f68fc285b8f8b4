"""``differseg-med status``: what made the results of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.errors import exit_code

app = typer.Typer()


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.", exists=True, file_okay=False)],
    settings: Annotated[bool, typer.Option("--settings", help="Also list every setting.")] = False,
) -> None:
    """Say what made the results in a folder (run.json), how far it is, and who writes there now."""
    from differseg_med.runs.status import status_lines

    def job() -> None:
        for line in status_lines(folder, settings=settings):
            typer.echo(line)

    sys.exit(exit_code(job))
