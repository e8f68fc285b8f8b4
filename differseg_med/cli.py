"""Command line: arguments, and calls below. The same runs as ``python -m monai.bundle run``, with less to type."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.workflows import run_bundle

app = typer.Typer(
    help="Multimodal binary segmentation of medical images: DifferSeg on MONAI. Not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Bundle = Annotated[Path, typer.Option(help="Folder of the bundle.", exists=True, file_okay=False)]
Table = Annotated[Path, typer.Option("--cohort", help="Cohort table (CSV).", exists=True, dir_okay=False)]
Output = Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for the results.")]
Split = Annotated[str | None, typer.Option(help="Only the rows of this split.")]
Withhold = Annotated[list[str] | None, typer.Option(help="Leave out this modality (may be given several times).")]
Resume = Annotated[bool, typer.Option(help="Go on where an interrupted run stopped.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU if there is one.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other entry of the configuration, as name=value; YAML values.")
]


@app.command()
def predict(
    bundle: Bundle,
    cohort: Table,
    output_dir: Output,
    split: Split = None,
    withhold: Withhold = None,
    resume: Resume = False,
    device: Device = None,
    settings: Settings = None,
) -> None:
    """Segment every case of a cohort: OUTPUT_DIR/<case_id>/mask.nii.gz and summary.csv."""
    options = {"split": split, "withhold": withhold, "resume": resume, "device": device}
    sys.exit(run_bundle(bundle, ["inference"], cohort, output_dir, options, settings or []))


@app.command()
def evaluate(
    bundle: Bundle,
    cohort: Table,
    output_dir: Output,
    split: Split = None,
    withhold: Withhold = None,
    resume: Resume = False,
    device: Device = None,
    settings: Settings = None,
) -> None:
    """Segment every case and compare with its label: also metrics.csv and metrics.json."""
    options = {"split": split, "withhold": withhold, "resume": resume, "device": device}
    sys.exit(run_bundle(bundle, ["inference", "evaluate"], cohort, output_dir, options, settings or []))


@app.command()
def train(
    bundle: Bundle,
    cohort: Table,
    output_dir: Output,
    resume: Resume = True,
    device: Device = None,
    settings: Settings = None,
) -> None:
    """Train on the rows of split "train" and validate on those of "validation"; goes on if OUTPUT_DIR has a start."""
    options = {"resume": resume, "device": device}
    sys.exit(run_bundle(bundle, ["inference", "train"], cohort, output_dir, options, settings or []))


if __name__ == "__main__":
    app()
