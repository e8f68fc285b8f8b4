"""``differseg-med new``: a bundle for a new task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.errors import exit_code

app = typer.Typer()


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Name of the task and of the bundle's folder.")],
    template: Annotated[str, typer.Option(help="rgb, rgbd, rgbt, rgbflow or rgbdt.")],
    folder: Annotated[Path, typer.Option(help="Where to put the bundle.")] = Path("bundles"),
) -> None:
    """Make a bundle for a new task on pictures: FOLDER/NAME with configurations and a card to fill in."""
    from differseg_med.bundles.new import TEMPLATES, new_bundle

    def job() -> None:
        made = new_bundle(TEMPLATES / f"{template}.yaml", folder / name)
        typer.echo(f"{made}: look through configs/inference.yaml, then")
        typer.echo(f"  differseg-med train --bundle {made} --cohort COHORT.csv --out runs/{name}")
        typer.echo(f"  python scripts/release_weights.py runs/{name}/best.pt {made}/models/model.pt")

    sys.exit(exit_code(job))
