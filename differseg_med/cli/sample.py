"""``differseg-med sample``: what to try the package on, also where there is no checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.errors import exit_code

app = typer.Typer()


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", help="Folder to copy into; made if it is not there.")],
) -> None:
    """Copy the sarcoma bundle, its two sample patients and the presets into a folder, to try the package on."""
    from differseg_med.bundles.shipped import copy_sample

    def job() -> None:
        bundle = copy_sample(out)
        typer.echo(f"{bundle}: T1, CT and PET of two patients are in its folder sample. Segment them with")
        typer.echo(
            f"  differseg-med predict --bundle {bundle} --cohort {bundle / 'sample' / 'cohort.csv'} --out results"
        )

    sys.exit(exit_code(job))
