"""Commands that run bundles: the same as ``python -m monai.bundle run``, with less to type."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from differseg_med.cli.options import names, progress, read_table
from differseg_med.errors import CaseError, exit_code, shown

app = typer.Typer()

#: Columns of subsets.csv that are shown at the end of a run.
SHOWN = ("given", "cases", "dice_mean", "hd95_mm_mean")

Bundle = Annotated[Path, typer.Option(help="Folder of the bundle.", exists=True, file_okay=False)]
Table = Annotated[Path, typer.Option("--cohort", help="Cohort table (CSV).", exists=True, dir_okay=False)]
Output = Annotated[Path, typer.Option("--out", "--output-dir", "-o", help="Folder for the results.")]
Split = Annotated[str | None, typer.Option(help="Only the rows of this split.")]
Withhold = Annotated[list[str] | None, typer.Option(help="Leave out this modality (may be given several times).")]
Resume = Annotated[bool, typer.Option(help="Resume where an interrupted run stopped.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU if there is one.")]
Backend = Annotated[
    str | None,
    typer.Option(help="What computes the network: auto (OpenVINO if it pays), torch, openvino, onnxruntime, compile."),
]
Formats = Annotated[
    str | None, typer.Option(help="Also write these, separated by commas: seg.nrrd, dicom-seg, png, mrb, bids ...")
]
Presets = Annotated[
    list[Path] | None,
    typer.Option(
        "--preset", help="Configuration that overlays the bundle's: a path, such as the repository's configs/cpu.yaml."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other entry of the configuration, as name=value; YAML values.")
]


ShardOf = Annotated[
    str | None,
    typer.Option("--shard", metavar="K/N", help="Every N-th case from the K-th on; collect joins the shards."),
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Cases at a time: above 1, reading and writing overlap with the network."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check rows, files, disk, memory, device and weights, then stop.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the bundle whatever it names, see lint-bundle; it may run any program.")
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        "--image", metavar="NAME=FILE", help="One patient without a table: a modality's file or DICOM folder."
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        help="Or measure the masks FOLDER/<case_id>/mask.nii.gz; FOLDER::1,2 says which values are foreground.",
        metavar="FOLDER",
    ),
]
Pooled = Annotated[
    bool, typer.Option("--hd95-pooled", help="Also HD95 as MedPy has it, over both directions together.")
]


@app.command()
def predict(
    bundle: Bundle,
    output_dir: Output,
    cohort: Annotated[
        Path | None, typer.Option("--cohort", help="Cohort table (CSV).", exists=True, dir_okay=False)
    ] = None,
    images: Images = None,
    split: Split = None,
    withhold: Withhold = None,
    resume: Resume = False,
    shard: ShardOf = None,
    jobs: Jobs = None,
    device: Device = None,
    backend: Backend = None,
    formats: Formats = None,
    presets: Presets = None,
    settings: Settings = None,
    trust: Trust = False,
    dry_run: DryRun = False,
) -> None:
    """Segment every case of a cohort, or one patient: OUT/<case_id>/mask.nii.gz, summary.csv and report.html."""
    if (cohort is None) == (not images):
        raise typer.BadParameter("give either --cohort or --image, once per modality")
    _refuse("--image", {"--dry-run": dry_run and bool(images), "--shard": shard if images else None})

    def job() -> None:
        from differseg_med import api
        from differseg_med.bundles.patient import write_patient
        from differseg_med.bundles.workflows import declared_modalities

        if dry_run and cohort is not None:
            options = {"split": split, "withhold": withhold, "device": device, "backend": backend, "shard": shard}
            _preflight(bundle, [], cohort, output_dir, options, presets, settings, trust)
            return
        table = cohort or write_patient(output_dir, _named(images or []), declared_modalities(bundle))
        result = api.predict(
            bundle,
            table,
            output_dir,
            split=split,
            withhold=withhold or (),
            resume=resume,
            shard=shard,
            jobs=jobs,
            device=device,
            backend=backend,
            formats=None if formats is None else names(formats),
            presets=presets or (),
            settings=settings or (),
            trust=trust,
            progress=True,
        )
        _end(result.problem)

    sys.exit(exit_code(job))


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(help="The --out of every shard.", exists=True, file_okay=False)],
) -> None:
    """Join the shards of predict --shard, as if one process had done everything."""

    def job() -> None:
        from differseg_med import api

        _end(api.collect(folder).problem)

    sys.exit(exit_code(job))


@app.command()
def evaluate(
    cohort: Table,
    output_dir: Output,
    bundle: Annotated[
        Path | None, typer.Option(help="Segment with this bundle first.", exists=True, file_okay=False)
    ] = None,
    predictions: Masks = None,
    stretch: Annotated[
        bool, typer.Option(help="With --predictions of 2-D images: normalise each map to the full range.")
    ] = False,
    hd95_pooled: Pooled = False,
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
    dry_run: DryRun = False,
) -> None:
    """Compare masks with the labels: metrics.csv, metrics.json, evaluation.html, overlays of the worst cases."""
    run = {"--withhold": withhold, "--resume": resume, "--device": device, "--set": settings, "--trust": trust}
    run |= {"--dry-run": dry_run}
    _check_evaluation(bundle, predictions, subsets, stretch, run | {"--preset": presets})
    _refuse("--subsets", {"--hd95-pooled": hd95_pooled and subsets})

    def job() -> None:
        from differseg_med import api

        if dry_run and bundle is not None:
            options = {"split": split, "withhold": withhold, "device": device}
            _preflight(bundle, ["evaluate"], cohort, output_dir, options, presets, settings, trust)
            return
        shared: dict[str, Any] = {"split": split, "resume": resume, "device": device, "trust": trust}
        shared |= {"settings": settings or (), "progress": True}
        if subsets and bundle is not None:
            lines, result = api.evaluate_subsets(bundle, cohort, output_dir, **shared)
            for line in lines:
                typer.echo(", ".join(f"{key} {value}" for key, value in line.items() if key in SHOWN))
        else:
            result = api.evaluate(
                cohort,
                output_dir,
                bundle=bundle,
                predictions=predictions,
                stretch=stretch,
                hd95_pooled=hd95_pooled,
                withhold=withhold or (),
                presets=presets or (),
                **shared,
            )
        _end(result.problem)

    sys.exit(exit_code(job))


@app.command()
def compare(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="METRICS...", help="metrics.csv of each model, the baseline first; or two folders, with --cohort."
        ),
    ],
    output_dir: Output = Path("comparison"),
    cohort: Annotated[
        Path | None,
        typer.Option(help="Compare the masks of a model and the edited ones: compare MODEL EDITED.", dir_okay=False),
    ] = None,
    against_first: Annotated[
        bool, typer.Option("--against-first", help="Compare each with the first only, not all pairs.")
    ] = False,
) -> None:
    """Compare models on the same cases (comparison.html), or a model's masks with the edited ones (edits.html)."""
    if cohort is not None:
        _refuse("--cohort", {"--against-first": against_first})
        if len(given) != 2:
            raise typer.BadParameter("with --cohort give two folders: the model's masks and the edited ones")

    def job() -> None:
        from differseg_med import api
        from differseg_med.metrics.policy import KNOWN

        if cohort is not None:
            _compare_masks(cohort, given[0], given[1], output_dir)
            return
        for r in api.compare([Path(table) for table in given], output_dir, against_first=against_first):
            label, pair = KNOWN[r.measure].label, f"{r.second} - {r.first}"
            smallest = f"{r.p_holm:.2g}, smallest possible {r.p_smallest:.2g}"
            typer.echo(f"{label}, {pair}: mean {r.mean_difference:+.3f}, p (Holm) {smallest}")
        typer.echo(shown(output_dir / "comparison.html"))

    sys.exit(exit_code(job))


def _compare_masks(table: Path, model: str, edited: str, output_dir: Path) -> None:
    from differseg_med.cohort.kinds import table_files
    from differseg_med.evaluation.edits import compare_masks

    cases = read_table(table).cases
    rows = compare_masks(cases, model, edited, output_dir, progress=progress("case"), tables=table_files(table))
    if failed := sum(row["status"] == "failed" for row in rows):
        raise SystemExit(f"{failed} of {len(rows)} masks could not be compared, see {shown(output_dir / 'edits.html')}")


@app.command()
def train(
    bundle: Bundle,
    cohort: Table,
    output_dir: Output,
    fold: Annotated[
        str | None, typer.Option(help="Train on the other folds and predict this one (column fold).")
    ] = None,
    folds: Annotated[
        str | None, typer.Option(help='Cross-validation: "all", or some folds with commas.', metavar="all")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="With --folds: how many to train at a time.")] = 1,
    freeze: Annotated[
        str | None, typer.Option(help="Do not train this part of the network: encoder.", metavar="encoder")
    ] = None,
    resume: Resume = True,
    device: Device = None,
    presets: Presets = None,
    settings: Settings = None,
    trust: Trust = False,
    dry_run: DryRun = False,
) -> None:
    """Train on split "train" and validate on "validation", or train by folds; resumes what OUT holds."""
    if fold is not None and folds is not None:
        raise typer.BadParameter("give either --fold or --folds")
    if freeze not in (None, "encoder"):
        raise typer.BadParameter(f'--freeze takes "encoder", not {freeze!r}')
    settings = [*(settings or []), *(["network_def::freeze_encoder=true"] if freeze else [])]
    by_folds = fold is not None or folds is not None
    _refuse("a training without --folds", {"--jobs": jobs > 1 and folds is None})
    _refuse("folds", {"--dry-run": dry_run and by_folds})

    def job() -> None:
        from differseg_med import api

        run: dict[str, Any] = {"device": device, "presets": presets or (), "settings": settings or (), "trust": trust}
        if dry_run:
            _preflight(bundle, ["train"], cohort, output_dir, {"device": device}, presets, settings, trust)
        elif by_folds:
            wanted = None if folds == "all" else names(str(fold or folds))
            run |= {"folds": wanted, "jobs": jobs, "resume": resume, "progress": True}
            found = api.train_folds(bundle, cohort, output_dir, **run)
            typer.echo(found.text)
            _end(found.problem)
        else:
            _end(api.train(bundle, cohort, output_dir, resume=resume, progress=True, **run).problem)

    sys.exit(exit_code(job))


def _preflight(
    bundle: Path,
    kind: list[str],
    cohort: Path,
    output_dir: Path,
    options: Mapping[str, object],
    presets: list[Path] | None,
    settings: list[str] | None,
    trust: bool,
) -> None:
    """Try everything that can stop a run and say what it would do."""
    from differseg_med.bundles.workflows import BundleRun

    configs = ["inference", *kind, *map(str, presets or [])]
    for line in BundleRun(bundle, configs, cohort, output_dir, options, settings or (), trust).preflight():
        typer.echo(line)


def _check_evaluation(
    bundle: Path | None, predictions: Path | None, subsets: str | None, stretch: bool, run: Mapping[str, object]
) -> None:
    """Options of `evaluate` that do not go together."""
    if predictions is not None and bundle is None:
        _refuse("--predictions", {"--subsets": subsets, **run})
    elif bundle is None or predictions is not None:
        raise typer.BadParameter("give either --bundle or --predictions")
    else:
        _refuse("--bundle", {"--stretch": stretch})
    if subsets not in (None, "all"):
        raise typer.BadParameter(f'--subsets takes "all", not {subsets!r}')
    if subsets:
        _refuse("--subsets", {name: run[name] for name in ("--preset", "--withhold", "--dry-run")})


def _named(images: list[str]) -> dict[str, str]:
    """``NAME=FILE`` by name."""
    found: dict[str, str] = {}
    for image in images:
        name, equals, cell = image.partition("=")
        if not equals or not name.strip() or not cell.strip():
            raise CaseError(
                f"--image {image} is not understood",
                expected="NAME=FILE, the name of a modality and its file or DICOM folder",
                remedy="Write --image t1=t1.nii.gz, for example.",
            )
        if name.strip() in found:
            raise CaseError(
                f"--image {name.strip()} is given twice",
                expected="one file per modality",
                remedy="Choose one of them, or name others in a cohort table.",
            )
        found[name.strip()] = cell.strip()
    return found


def _end(problem: str) -> None:
    if problem:
        raise SystemExit(problem)


def _refuse(kind: str, options: Mapping[str, object]) -> None:
    """Options that would be ignored are errors."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"{name} is not for {kind}")
