"""``differseg-med release``: the bundle to ship."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli.run import Presets, Settings
from differseg_med.errors import exit_code

app = typer.Typer()


@app.command()
def release(
    run: Annotated[Path, typer.Argument(help="Folder of a training, or of folds.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle to make.")],
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle that was trained, if RUN does not say so.", file_okay=False)
    ] = None,
    presets: Presets = None,
    settings: Settings = None,
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Save weights as .safetensors, which holds tensors only.")
    ] = False,
    average: Annotated[
        Path | None,
        typer.Option(
            help="Cases that no fold was trained on: ship the mean of the folds' weights if it is as good there.",
            dir_okay=False,
        ),
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="Ship the network of this fold alone; its cases were not trained on.")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="Table of labelled cases that may be given away, copied into the bundle.", dir_okay=False),
    ] = None,
) -> None:
    """Make the bundle to ship: weights in half precision, chosen rule, fingerprint, scores in the card, hashes."""

    def job() -> None:
        from differseg_med import api

        made = api.release(
            run,
            out,
            bundle=bundle,
            presets=presets or (),
            settings=settings or (),
            safetensors=safetensors,
            average=average,
            fold=fold,
            sample=sample,
        )
        typer.echo(f"{made}: look through docs/README.md, then")
        typer.echo(f"  differseg-med predict --bundle {made} --cohort COHORT.csv --out results")

    sys.exit(exit_code(job))


@app.command("export-onnx")
def export_onnx(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="File to write, .onnx.", dir_okay=False)],
) -> None:
    """Write the network as ONNX with batch, height and width left open, held against PyTorch at two sizes."""

    def job() -> None:
        from differseg_med.bundles.onnx import export_onnx as export

        typer.echo(str(export(bundle, out)))

    sys.exit(exit_code(job))
