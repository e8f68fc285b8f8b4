"""Command line: arguments, and calls below; one module per group of commands.

What takes seconds to import (torch, MONAI) is imported by the commands that need it, so that ``--help``, mistyped
options and scans of folders answer at once.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from differseg_med.errors import VERBOSE
from differseg_med.startup import quick_start, without_collections

with without_collections():
    from differseg_med.cli import cohort, export, lint, pacs, plan, release, run, sample, serve, status, view

app = typer.Typer(
    help="Multimodal binary segmentation of medical images: DifferSeg on MONAI. Not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _main(
    verbose_paths: Annotated[
        bool, typer.Option("--verbose-paths", help="Messages show folders and names from files: not for sharing.")
    ] = False,
) -> None:
    if verbose_paths:
        os.environ[VERBOSE] = "1"
    quick_start()


app.add_typer(run.app)
app.add_typer(plan.app)
app.add_typer(release.app)
app.add_typer(lint.app)
app.add_typer(export.app)
app.add_typer(sample.app)
app.add_typer(status.app)
app.add_typer(serve.app)
app.add_typer(view.app)
app.add_typer(cohort.app, name="cohort")
app.add_typer(pacs.app, name="pacs")
