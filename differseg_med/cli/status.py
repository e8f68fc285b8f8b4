"""``differseg-med status`` and ``describe``: what made the results of a folder, and what a bundle wants and gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.errors import exit_code

app = typer.Typer()


@app.command()
def describe(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", exists=True, file_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what a bundle needs (modalities, kinds) and gives (target, codes, grid), its version and weights."""
    from differseg_med.bundles.description import describe as describe_bundle
    from differseg_med.bundles.description import described_in_words

    def job() -> None:
        found = describe_bundle(bundle)
        for line in [json.dumps(found, indent=2)] if as_json else described_in_words(found):
            typer.echo(line)

    sys.exit(exit_code(job))


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.", exists=True, file_okay=False)],
    settings: Annotated[bool, typer.Option("--settings", help="Also list every setting.")] = False,
) -> None:
    """Show what made the results in a folder (run.json), its progress, and who is writing there now."""
    from differseg_med.runs.status import status_lines

    def job() -> None:
        for line in status_lines(folder, settings=settings):
            typer.echo(line)

    sys.exit(exit_code(job))
