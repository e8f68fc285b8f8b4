"""``differseg-med plan`` and ``new``: a bundle for a new task, from its training cases or without any."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli.options import names
from differseg_med.errors import CaseError, exit_code

app = typer.Typer()

Name = Annotated[str, typer.Option(help="Name of the task and of the bundle's folder.")]
Target = Annotated[
    str, typer.Option(help='What the masks show: "liver lesion", or "MS lesion=brain lesion" (name=words looked up).')
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A value instead of the rule's: name=value, YAML. Repeatable.")
]


@app.command()
def plan(
    table: Annotated[Path, typer.Argument(help="Cohort table (CSV).", exists=True, dir_okay=False)],
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="Where to put the bundle.")] = Path("bundles"),
    time: Annotated[str, typer.Option(help="Time for one training: 20min, 2h, 1d.")] = "2h",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory for a training: 8GB; default: what is free.")] = None,
    target: Target = "",
    modalities: Annotated[
        str, typer.Option(help="Columns to use, with their kinds where the table does not say them: flair=mr,t1c=mr.")
    ] = "",
    settings: Settings = None,
) -> None:
    """Make a bundle for the task of a cohort from its training cases and this machine, with a reason for each value."""

    def job() -> None:
        from differseg_med import api

        done = api.plan(
            table,
            out / name,
            target=target,
            modalities=_columns(modalities),
            time=time,
            device=device,
            memory=memory,
            settings=settings or (),
            progress=True,
        )
        for line in done.notes:
            typer.echo(line)
        typer.echo(f"{done.folder}: why each value is what it is stands in docs/PLAN.md. Next:")
        for command in done.commands:
            typer.echo(command)

    sys.exit(exit_code(job))


def _columns(text: str) -> dict[str, str]:
    """Columns of ``flair=mr,t1c`` with their kinds, empty where none is given."""
    pairs = [entry.partition("=") for entry in names(text)]
    return {column.strip(): kind.strip() for column, _, kind in pairs}


@app.command()
def new(
    name: Name,
    template: Annotated[str, typer.Option(help="For 2-D images: rgb, rgbd, rgbt, rgbflow or rgbdt.")] = "",
    modalities: Annotated[str, typer.Option(help="Or the modalities with their kinds: flair=mr,t1c=mr.")] = "",
    folder: Annotated[Path, typer.Option("--folder", "--out", help="Where to put the bundle.")] = Path("bundles"),
    target: Target = "",
    settings: Settings = None,
) -> None:
    """Make a bundle for a new task without data: FOLDER/NAME with defaults and a card to fill in. See also: plan."""
    from differseg_med.bundles.new import TEMPLATES, new_bundle

    def job() -> None:
        if bool(template) == bool(modalities):
            raise CaseError(
                "say what the images are",
                expected="--modalities flair=mr,t1c=mr, or --template rgbd for 2-D images",
                remedy="With a cohort table: differseg-med plan COHORT.csv --name NAME.",
            )
        if template:
            made = new_bundle(TEMPLATES / f"{template}.yaml", folder / name)
        else:
            from differseg_med.planning.jobs import bundle_without_data

            kinds = _columns(modalities)
            made = bundle_without_data(kinds, folder / name, target=target, settings=settings or ())
        typer.echo(f"{made}: look through configs/inference.yaml, then")
        typer.echo(f"  differseg-med train --bundle {made} --cohort COHORT.csv --out runs/{name}")
        typer.echo(f"  differseg-med release runs/{name} --out {made}_release")

    sys.exit(exit_code(job))
