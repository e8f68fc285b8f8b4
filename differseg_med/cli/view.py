"""``differseg-med view``: look through the masks of a run, accept or reject them."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.errors import exit_code

app = typer.Typer()


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="--out of predict or evaluate.", exists=True)],
    cohort: Annotated[
        Path | None, typer.Option("--cohort", help="Cohort table: its labels are shown beside the masks.", exists=True)
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port of this machine; 0 takes a free one.", min=0)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Open results in a page on this machine: slices, mask and label, accept or reject with a note (OUT/review.csv)."""

    def job() -> None:
        from differseg_med.cli.options import read_table
        from differseg_med.review.server import ReviewServer

        cases = {} if cohort is None else {case.case_id: case for case in read_table(cohort).cases if not case.problem}
        with ReviewServer(folder, cases, port) as server:
            typer.echo(f"{server.address}\nThis machine alone can open it. Ctrl-C ends it; verdicts are in review.csv.")
            if browser:
                webbrowser.open(server.address)
            server.serve_forever()

    sys.exit(exit_code(job))
