"""Predict, evaluate, compare and train from Python."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.api.results import CohortResult, Segmentation, TrainingResult
from differseg_med.api.running import Set, configs, options_of, result_of, run_bundle, run_evaluator
from differseg_med.bundles.patient import Image, write_patient
from differseg_med.bundles.recipe import keep_recipe
from differseg_med.bundles.workflows import BundleRun, declared_modalities
from differseg_med.cohort import table as tables
from differseg_med.cohort.kinds import table_files
from differseg_med.errors import CaseError, Finding
from differseg_med.evaluation.compare import Comparison
from differseg_med.evaluation.compare import compare as compare_tables
from differseg_med.evaluation.evaluate import evaluate_cohort
from differseg_med.evaluation.subsets import all_subsets, subset_name, write_subsets
from differseg_med.io.dicom.cells import split_cell
from differseg_med.keys import REFERENCE
from differseg_med.metrics.case import Settings
from differseg_med.paths import inside
from differseg_med.prediction.collecting import collect as collect_shards
from differseg_med.prediction.quality import FLAGS
from differseg_med.prediction.result import CaseResult
from differseg_med.prediction.summary import DONE, FAILED, as_predicted, problem_of
from differseg_med.progress import progress_bar, progress_shown
from differseg_med.runs.folder import occupied
from differseg_med.runs.shards import Shard
from differseg_med.runs.stamps import inputs_of


def predict(
    bundle: str | Path,
    cohort: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    withhold: Sequence[str] = (),
    resume: bool = False,
    shard: str | None = None,
    jobs: int | None = None,
    device: str | None = None,
    backend: str | None = None,
    formats: Sequence[str] | None = None,
    presets: Sequence[str | Path] = (),
    settings: Set = (),
    trust: bool = False,
    progress: bool = False,
) -> CohortResult:
    """Segment every case of a cohort table; one that fails does not stop the others.

    Args:
        bundle: folder of the bundle.
        cohort: the table, see `differseg_med.cohort.table`.
        out: folder of the results.
        split: only the rows of this split.
        withhold: modalities to leave out although the table has them.
        resume: keep what an interrupted run finished.
        shard: ``2/4`` for the second of four shards, which may run at the same time; then `collect` their results.
        jobs: cases in work at a time: over 1, the next are read ahead of the network and the last written behind it.
        device: ``cpu``, ``cuda``, ``cuda:1``; None for a GPU if there is one.
        backend: what computes the network, see `differseg_med.backends`; None for the quickest that is installed.
        formats: what to write beside NIfTI, ``seg.nrrd`` or ``dicom-seg`` for example.
        presets: configurations over the bundle's.
        settings: any other entry of the configuration.
        trust: run the bundle whatever it names; it may run any program, see docs/security.md.
        progress: draw bars on a terminal.

    Raises:
        CaseError: if the run cannot start: table, bundle or settings are not right.
    """
    chosen = {"formats": None if formats is None else list(formats), "backend": backend}
    options = {**options_of(split, withhold, device), "resume": resume, "shard": shard, "jobs": jobs, **chosen}
    folder = Path(out) if shard is None else Shard.parse(shard).folder(out)
    return result_of(
        run_evaluator(BundleRun(bundle, configs(presets), cohort, folder, options, settings, trust), progress)
    )


def collect(out: str | Path) -> CohortResult:
    """Put the shards of a run together: the folder is then as if one process had done all of it.

    Does nothing a second time, and goes on where it was killed.

    Args:
        out: the folder that every shard was given.

    Raises:
        CaseError: if a shard is missing, not finished or running, or they are not of one run; see
            `differseg_med.prediction.collecting`.
    """
    rows = collect_shards(out)
    failed = [str(row["case_id"]) for row in rows if row["status"] != DONE]
    return CohortResult(Path(out), tuple(rows), (), tuple(dict.fromkeys(failed)), problem_of(failed, len(rows)))


def segment(
    bundle: str | Path,
    *,
    device: str | None = None,
    backend: str | None = None,
    presets: Sequence[str | Path] = (),
    settings: Set = (),
    trust: bool = False,
    progress: bool = False,
    **images: Image,
) -> Segmentation:
    """Segment one patient: the code of `predict` on a table of one row, in a temporary folder.

    Args:
        bundle: folder of the bundle.
        device: as for `predict`.
        backend: as for `predict`.
        presets: as for `predict`.
        settings: as for `predict`.
        trust: as for `predict`.
        progress: draw bars on a terminal.
        images: by modality of the bundle: a path, a cell (``PATH::SELECTOR``), or an image of nibabel, SimpleITK or
            MONAI (`MetaTensor`). Those that are not given are absent.

    Raises:
        CaseError: if the bundle has no such modality, an image cannot be read, or the images do not fit together.
    """
    seen: list[CaseResult] = []

    def keep(result: CaseResult, folder: Path) -> Mapping[str, object]:
        seen.append(result)
        return {}

    with tempfile.TemporaryDirectory(prefix="differseg-med-") as temporary:
        table = write_patient(Path(temporary), images, declared_modalities(bundle))
        options = {**options_of(None, (), device), "backend": backend}
        run = BundleRun(bundle, configs(presets), table, Path(temporary) / "out", options, settings, trust)
        evaluator = run_evaluator(run, progress, keep)
        if not seen:
            raise next(iter(evaluator.problems.values()))
        row = evaluator.summary.rows[0]
        (result,) = seen
        flags = [flag for flag in str(row.get(FLAGS) or "").split("; ") if flag]
        return Segmentation(
            np.array(result.mask),
            np.array(result.probability),
            result.grid,
            str(row[REFERENCE]),
            result.modalities,
            (*(Finding("warning", flag) for flag in flags), *(Finding("note", note) for note in result.notes)),
        )


def evaluate(
    cohort: str | Path,
    out: str | Path,
    *,
    bundle: str | Path | None = None,
    predictions: str | Path | None = None,
    stretch: bool = False,
    hd95_pooled: bool = False,
    split: str | None = None,
    withhold: Sequence[str] = (),
    resume: bool = False,
    device: str | None = None,
    presets: Sequence[str | Path] = (),
    settings: Set = (),
    trust: bool = False,
    progress: bool = False,
) -> CohortResult:
    """Compare masks with a cohort's labels: those that a bundle makes now, or those of a folder.

    Args:
        cohort: the table, with labels.
        out: folder of the results.
        bundle: segment with this bundle first; other arguments as for `predict`.
        predictions: or the folder with ``<case_id>/mask.nii.gz``.
        stretch: 2-D images: stretch each probability to the full range before it is measured, as benchmarks do.
        hd95_pooled: also measure HD95 as MedPy does: one percentile of the distances of both directions.
        split: only the rows of this split.
        withhold: as for `predict`.
        resume: as for `predict`.
        device: as for `predict`.
        presets: as for `predict`.
        settings: as for `predict`.
        trust: as for `predict`.
        progress: draw bars on a terminal.

    Raises:
        CaseError: if the run cannot start, or both or none of ``bundle`` and ``predictions`` are given.
    """
    if (bundle is None) == (predictions is None):
        raise CaseError("give either a bundle or predictions")
    if bundle is not None:
        options = {**options_of(split, withhold, device), "resume": resume, "stretch": stretch or None}
        options["hd95_pooled"] = hd95_pooled or None
        run = BundleRun(bundle, configs(presets, "evaluate"), cohort, out, options, settings, trust)
        return result_of(run_evaluator(run, progress))
    with progress_shown(progress):
        rows = tables.read_cohort(cohort, tables.table_modalities(cohort)).select(split)
        folder = str(predictions)
        bar, files = partial(progress_bar, unit="case"), table_files(cohort)
        done = evaluate_cohort(
            as_predicted(rows, split_cell(folder)[0]),
            folder,
            out,
            settings=Settings(stretch=stretch, hd95_pooled=hd95_pooled),
            progress=bar,
            tables=files,
        )
    failed = tuple(done.failures)
    text = f"{len(failed)} of {len(rows)} cases failed, see {done.out_dir}" if failed else ""
    return CohortResult(done.out_dir, (), tuple(done.rows), failed, text)


def evaluate_subsets(
    bundle: str | Path,
    cohort: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    resume: bool = False,
    device: str | None = None,
    settings: Set = (),
    trust: bool = False,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], CohortResult]:
    """Evaluate a bundle with every subset of its modalities; arguments as for `predict`.

    Returns:
        The lines of ``subsets.csv``, and what failed; each subset's masks and metrics are in ``out/<modalities>``.

    Raises:
        CaseError: if the run cannot start, or no case could be measured with any subset.
    """
    names = declared_modalities(bundle)
    results: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    failures: list[str] = []
    cases = tables.read_cohort(cohort, names).cases
    inputs = [*table_files(cohort), *(path for case in cases for path in inputs_of(case))]
    with occupied(out, inputs, "The same command with --resume continues where it stopped."):
        for subset in all_subsets(names):
            options = {**options_of(split, [name for name in names if name not in subset], device), "resume": resume}
            folder = inside(out, subset_name(subset))
            run = BundleRun(bundle, configs((), "evaluate"), cohort, folder, options, settings, trust)
            evaluator = run_evaluator(run, progress)
            results[subset] = evaluator.metrics
            failures += evaluator.failures
        if not any(row["status"] != FAILED for rows in results.values() for row in rows):
            raise CaseError("no case could be measured with any subset, see each subset's summary.csv")
        lines = write_subsets(results, names, out)
    text = f"{len(failures)} runs of a case failed, see each subset's summary.csv" if failures else ""
    return lines, CohortResult(Path(out), failures=tuple(failures), problem=text)


def compare(
    metrics: Sequence[str | Path] | Mapping[str, str | Path], out: str | Path, *, against_first: bool = False
) -> list[Comparison]:
    """Compare models on the same cases by their ``metrics.csv``, the baseline first; each is named by its folder.

    Args:
        metrics: the tables, or the tables by name.
        out: folder of ``comparison.csv`` and ``comparison.html``.
        against_first: compare each model with the first only, not all pairs.

    Raises:
        CaseError: if the tables cannot be compared, see `differseg_med.evaluation.compare.compare`.
    """
    named = metrics if isinstance(metrics, Mapping) else dict(zip(_names(metrics), metrics))
    with occupied(out, [Path(table) for table in named.values()], deep=False):
        return compare_tables(named, out, against_first=against_first)


def train(
    bundle: str | Path,
    cohort: str | Path,
    out: str | Path,
    *,
    resume: bool = True,
    device: str | None = None,
    presets: Sequence[str | Path] = (),
    settings: Set = (),
    trust: bool = False,
    progress: bool = False,
) -> TrainingResult:
    """Train on the rows of split "train", validate on those of "validation"; resumes if ``out`` has a start.

    Raises:
        CaseError: if the training cannot start or go on; arguments as for `predict`.
    """
    options = {**options_of(None, (), device), "resume": resume}
    run = BundleRun(bundle, configs(presets, "train"), cohort, out, options, settings, trust)
    workflow = run_bundle(run, progress)
    keep_recipe(run, out)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    recorder = trainer.recorder
    best = Path(out) / "best.pt"
    log = tuple(recorder.rows)
    found, known = best if best.is_file() else None, recorder.best >= 0
    return TrainingResult(
        Path(out), found, Path(out) / "last.pt", log, recorder.best if known else None, trainer.problem
    )


def _names(metrics: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the tables' folders that tell them apart."""
    folders = [Path(table).resolve().parent.parts for table in metrics]
    depth = 1
    while len({f[-depth:] for f in folders}) < len(folders) and depth < max(map(len, folders)):
        depth += 1
    return ["/".join(f[-depth:]) for f in folders]
