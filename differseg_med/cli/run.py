"""Commands that run bundles: the same as ``python -m monai.bundle run``, with less to type."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli.options import names

app = typer.Typer()

Bundle = Annotated[Path, typer.Option(help="Folder of the bundle.", exists=True, file_okay=False)]
Table = Annotated[Path, typer.Option("--cohort", help="Cohort table (CSV).", exists=True, dir_okay=False)]
Output = Annotated[Path, typer.Option("--out", "--output-dir", "-o", help="Folder for the results.")]
Split = Annotated[str | None, typer.Option(help="Only the rows of this split.")]
Withhold = Annotated[list[str] | None, typer.Option(help="Leave out this modality (may be given several times).")]
Resume = Annotated[bool, typer.Option(help="Go on where an interrupted run stopped.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU if there is one.")]
Formats = Annotated[
    str | None, typer.Option(help="Also write these, separated by commas: seg.nrrd, dicom-seg, png, scene, bids ...")
]
Presets = Annotated[
    list[Path] | None,
    typer.Option(
        "--preset", help="Configuration over the bundle's: a path, such as the repository's configs/cpu.yaml."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other entry of the configuration, as name=value; YAML values.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the bundle whatever it names, see lint-bundle; it may run any program.")
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
    formats: Formats = None,
    presets: Presets = None,
    settings: Settings = None,
    trust: Trust = False,
) -> None:
    """Segment every case of a cohort: OUT/<case_id>/mask.nii.gz, summary.csv and report.html."""
    from differseg_med.bundles.workflows import run_bundle

    options = {
        "split": split,
        "withhold": withhold,
        "resume": resume,
        "device": device,
        "formats": None if formats is None else names(formats),
    }
    sys.exit(run_bundle(bundle, _with(["inference"], presets), cohort, output_dir, options, settings or [], trust))


@app.command()
def evaluate(
    cohort: Table,
    output_dir: Output,
    bundle: Annotated[
        Path | None, typer.Option(help="Segment with this bundle first.", exists=True, file_okay=False)
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Or measure the masks FOLDER/<case_id>/mask.nii.gz.", metavar="FOLDER")
    ] = None,
    stretch: Annotated[
        bool, typer.Option(help="With --predictions of pictures: stretch each map to the full range, as benchmarks do.")
    ] = False,
    subsets: Annotated[
        str | None, typer.Option(help='With --bundle: "all" evaluates every subset of the modalities.', metavar="all")
    ] = None,
    split: Split = None,
    withhold: Withhold = None,
    resume: Resume = False,
    device: Device = None,
    presets: Presets = None,
    settings: Settings = None,
    trust: Trust = False,
) -> None:
    """Compare masks with the labels: metrics.csv, metrics.json, evaluation.html, overlays of the worst cases."""
    from differseg_med.bundles.workflows import measure, run_bundle, run_subsets

    if predictions is not None and bundle is None:
        others = {
            "--withhold": withhold,
            "--resume": resume,
            "--device": device,
            "--preset": presets,
            "--set": settings,
            "--trust": trust,
        }
        _refuse("--predictions", {"--subsets": subsets, **others})
        sys.exit(measure(predictions, cohort, output_dir, split, stretch))
    if bundle is None or predictions is not None:
        raise typer.BadParameter("give either --bundle or --predictions")
    _refuse("--bundle", {"--stretch": stretch})
    options = {"split": split, "withhold": withhold, "resume": resume, "device": device}
    if subsets not in (None, "all"):
        raise typer.BadParameter(f'--subsets takes "all", not {subsets!r}')
    if subsets and presets:
        raise typer.BadParameter("--subsets takes no --preset")
    if subsets:
        sys.exit(run_subsets(bundle, cohort, output_dir, options, settings or [], trust))
    sys.exit(
        run_bundle(
            bundle, _with(["inference", "evaluate"], presets), cohort, output_dir, options, settings or [], trust
        )
    )


@app.command()
def compare(
    metrics: Annotated[list[Path], typer.Argument(help="metrics.csv of each model, the baseline first.")],
    output_dir: Output = Path("comparison"),
) -> None:
    """Compare models on the same cases: paired tests with Holm's correction, effect sizes, comparison.html."""
    from differseg_med.bundles.workflows import compare_models

    sys.exit(compare_models(metrics, output_dir))


@app.command()
def train(
    bundle: Bundle,
    cohort: Table,
    output_dir: Output,
    resume: Resume = True,
    device: Device = None,
    presets: Presets = None,
    settings: Settings = None,
    trust: Trust = False,
) -> None:
    """Train on the rows of split "train" and validate on those of "validation"; goes on if OUT has a start."""
    from differseg_med.bundles.workflows import run_bundle

    options = {"resume": resume, "device": device}
    sys.exit(
        run_bundle(bundle, _with(["inference", "train"], presets), cohort, output_dir, options, settings or [], trust)
    )


def _with(configs: list[str], presets: list[Path] | None) -> list[str]:
    return [*configs, *(str(preset) for preset in presets or [])]


def _refuse(kind: str, options: Mapping[str, object]) -> None:
    """Options that would be ignored are errors."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"{name} is not for {kind}")
