"""``differseg-med lint-bundle``: what a bundle would run, before it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.errors import exit_code

app = typer.Typer()


@app.command("lint-bundle")
def lint_bundle(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", exists=True, file_okay=False)],
    presets: Annotated[list[Path] | None, typer.Option("--preset", help="Also this configuration.")] = None,
    write_manifest: Annotated[
        bool, typer.Option("--write-manifest", help="Write manifest.json with the hash of every file.")
    ] = False,
) -> None:
    """List what a bundle's configurations would run that is not allowed; compare its files with its manifest."""
    from differseg_med.bundles import manifest
    from differseg_med.bundles.lint import bundle_files, lint_files

    def job() -> None:
        files = [*bundle_files(bundle), *(presets or [])]
        refused = lint_files(files)
        for line in refused:
            typer.echo(str(line))
        if refused:
            raise SystemExit(f"{len(refused)} entries are not allowed, see docs/security.md; a run needs --trust")
        if write_manifest:
            typer.echo(f"{manifest.write_manifest(bundle)}: written")
        manifest.check_manifest(bundle)
        typer.echo(f"{len(files)} configurations name only what may run")

    sys.exit(exit_code(job))
