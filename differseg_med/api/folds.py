"""Cross-validation: train each fold, predict its cases by the network that never saw them, measure them together."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from differseg_med.api.results import FoldsResult
from differseg_med.api.running import Set, configs, options_of, quiet_monai, run_bundle
from differseg_med.atomic import replacing, write_text
from differseg_med.backends.precision import in_bfloat16
from differseg_med.backends.prepared import TORCH, Prepared
from differseg_med.bundles.recipe import keep_recipe
from differseg_med.bundles.workflows import BundleRun, Workflow, readable
from differseg_med.case import Case, run_for_case
from differseg_med.cohort.kinds import table_files
from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.errors import CaseError, exit_code
from differseg_med.metrics.rows import is_failed
from differseg_med.modality import declared
from differseg_med.networks.checkpoints import load_weights
from differseg_med.progress import progress_bar, progress_shown
from differseg_med.runs.describe import described, digest
from differseg_med.runs.folder import occupied, set_aside
from differseg_med.runs.lock import holder
from differseg_med.runs.manifest import (
    Step,
    configured,
    flat_settings,
    list_differences,
    read_steps,
    recording,
    write_steps,
)
from differseg_med.runs.names import MANIFEST
from differseg_med.runs.stamps import case_stamps, code_hash, inputs_of, stamp
from differseg_med.training.crossvalidation import PREDICTIONS, RESULTS, measure_folds, write_tables
from differseg_med.training.folds import OUT_OF_FOLD, Folds, read_folds
from differseg_med.training.out_of_fold import predict_case, read_prediction, save_prediction, subset_names
from differseg_med.training.recorder import LAST
from differseg_med.training.rules import Rule

logger = logging.getLogger(__name__)

STEP = "folds"
MODEL, DONE, FAILED, TABLE = "model.pt", "training.json", "failed.json", "cohort.csv"
"""In the folder of a fold: the averaged weights of its last epoch, what made them, cases without a prediction, and the
table that it was trained on."""

RESUME = "The same command resumes where it stopped."


@dataclass(frozen=True)
class FoldsRun:
    """A cross-validation: what is trained, on which table, into which folder.

    Args:
        bundle: folder of the bundle.
        cohort: the table, with a column ``fold``.
        out: folder of the results.
        device: as for `train`.
        presets: as for `train`.
        settings: as for `train`.
        trust: as for `train`.
        resume: keep what is there.
    """

    bundle: str | Path
    cohort: str | Path
    out: Path
    device: str | None = None
    presets: Sequence[str | Path] = ()
    settings: Set = ()
    trust: bool = False
    resume: bool = True

    def folder(self, fold: str) -> Path:
        """The folder of a fold's training."""
        return self.out / f"fold{fold}"

    def opened(self) -> Workflow:
        """The configuration of the training, checked."""
        return self.of().open()

    def of(self) -> BundleRun:
        """The training of all folds, which is none: what its folds share."""
        return self._run(self.cohort, self.out, {}, self.settings)

    def of_fold(self, fold: str, number: int, parser: ConfigParser) -> BundleRun:
        """The training of a fold: on its own table, with a seed of its own and the cache of all folds."""
        settings, seed = self.settings, parser.get("seed")
        if isinstance(seed, int):
            own = seed + number
            settings = {**settings, "seed": own} if isinstance(settings, Mapping) else [*settings, f"seed={own}"]
        cache = {"cache_dir": self.out / "cache"} if _has_cache(parser) else {}
        return self._run(self.folder(fold) / TABLE, self.folder(fold), cache, settings)

    def _run(self, cohort: str | Path, out: Path, more: Mapping[str, Any], settings: Set) -> BundleRun:
        options = {**options_of(None, (), self.device), "resume": self.resume or None, **more}
        return BundleRun(self.bundle, configs(self.presets, "train"), cohort, out, options, settings, self.trust)


def train_folds(
    bundle: str | Path,
    cohort: str | Path,
    out: str | Path,
    *,
    folds: Sequence[str] | None = None,
    jobs: int = 1,
    resume: bool = True,
    device: str | None = None,
    presets: Sequence[str | Path] = (),
    settings: Set = (),
    trust: bool = False,
    progress: bool = False,
) -> FoldsResult:
    """Train on all folds but one, predict the cases of that one, and so on; resumes where a run was interrupted.

    Nothing is chosen on the cases of a fold: its network is the average of the last epoch, and the rule that makes
    masks of its probabilities is chosen on the other folds. See `differseg_med.api.results.FoldsResult`.

    Args:
        bundle: folder of the bundle.
        cohort: the table, with a column ``fold``.
        out: folder of the results: ``fold0/`` and so on, ``predictions/``, the tables.
        folds: names of folds; None for all. The tables are of those that are there.
        jobs: how many folds are trained at a time, each in a process.
        resume: keep what is there; else it is set aside.
        device: as for `train`.
        presets: as for `train`.
        settings: as for `train`.
        trust: as for `train`.
        progress: draw bars on a terminal.

    Raises:
        CaseError: if the table has no folds that can be trained on, the folder is of another run, or one fold stops.
    """
    run = FoldsRun(bundle, cohort, Path(out), device, presets, settings, trust, resume)
    with quiet_monai(), progress_shown(progress):
        workflow = run.opened()
        modalities = declared(workflow.parser.get("modalities"))
        table = read_folds(read_cohort(cohort, modalities))
        wanted = table.chosen(folds)
        for notice in table.notices:
            logger.warning("%s", notice)
        _accept(run, workflow, table)
        run = replace(run, resume=True)  # what was there is set aside
        if jobs > 1 and len(wanted) > 1:
            _in_processes(run, wanted, jobs)
        else:
            for fold in wanted:
                do_fold(run, fold, progress)
        return _tabulated(run, workflow, table, wanted)


def do_fold(run: FoldsRun, fold: str, progress: bool = False) -> None:
    """Train and predict one fold, as far as that is not done yet.

    Raises:
        CaseError: if it cannot start or resume.
    """
    workflow = run.opened()
    modalities = declared(workflow.parser.get("modalities"))
    cohort = read_cohort(run.cohort, modalities)
    table = read_folds(cohort)
    own = run.of_fold(fold, table.names.index(fold), workflow.parser)
    cases = [replace(case, split=OUT_OF_FOLD if case.fold == fold else "train") for case in table.cases]
    inputs = [*table_files(cohort.path), *(path for case in cases for path in inputs_of(case))]
    with occupied(run.folder(fold), inputs, RESUME):
        write_cohort(run.folder(fold) / TABLE, tuple(modalities), cases, cohort.kinds)
        _train(own, run.folder(fold), cases, progress)
        _predict(own, run.folder(fold), table.of(fold), run.out / PREDICTIONS, tuple(modalities))


def _train(run: BundleRun, folder: Path, cases: Sequence[Case], progress: bool) -> None:
    """Train a fold and keep its averaged weights; nothing if that is done and no file has changed since."""
    made_of = digest([(c.case_id, c.split, case_stamps(c), stamp(c.label or "")) for c in cases])
    if (folder / MODEL).is_file() and _read_json(folder / DONE).get("made_of") == made_of:
        return
    logger.info("%s: training on %d cases", folder.name, sum(case.split == "train" for case in cases))
    workflow = run_bundle(run, progress)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    state = torch.load(folder / LAST, map_location="cpu", weights_only=True)
    with replacing(folder / MODEL) as temporary, temporary.open("wb") as file:
        torch.save(state["average"], file)
    report = {"made_of": made_of, "steps": state["iteration"], "problem": trainer.problem}
    write_text(folder / DONE, json.dumps(report, indent=1) + "\n")


def _predict(run: BundleRun, folder: Path, cases: Sequence[Case], target: Path, modalities: Sequence[str]) -> None:
    """Predict the cases of a fold; those that are there and still hold are left."""
    workflow = run.open()
    parser = workflow.parser
    with readable(workflow.configuration):
        device = parser.get_parsed_content("device")
        network = parser.get_parsed_content("network_def")
        load_weights(network, folder / MODEL)
        network = network.to(device).eval()
        preprocess, inferer = (parser.get_parsed_content(name) for name in ("preprocessing", "inferer"))
        amp = in_bfloat16(parser.get_parsed_content("amp") if "amp" in parser else False, device)
    parts = described(preprocessing=preprocess, network=network, inferer=inferer, amp=amp)
    common = digest(parts, code_hash(), list(subset_names(modalities).items()))
    quick, failed = Prepared(network, TORCH, bfloat16=amp), dict[str, str]()
    for case in progress_bar(cases, desc=f"predicting {folder.name}", unit="case"):
        made_of = digest(common, case_stamps(case), stamp(case.label or ""))
        path = target / f"{case.case_id}.pt"
        known = read_prediction(path, mmap=True)
        if known is not None and known.get("made_of") == made_of:
            continue

        def work(case: Case) -> dict[str, Any]:
            if case.problem is not None:
                raise case.problem
            return predict_case(preprocess(case.as_item()), quick, inferer, modalities, device, amp=amp)

        try:
            save_prediction(run_for_case(work, case, case) | {"made_of": made_of}, path)
        except CaseError as error:
            logger.error("%s", error)
            failed[case.case_id] = str(error.for_case(case.case_id))
            path.unlink(missing_ok=True)
    write_text(folder / FAILED, json.dumps(failed, indent=1) + "\n")


def _accept(run: FoldsRun, workflow: Workflow, table: Folds) -> None:
    """Hold the run against the one that the folder has begun, and remember it.

    Raises:
        CaseError: if it is another one, with each difference.
    """
    with configured(workflow.parser.get()):
        step = Step.now({}, {case.case_id: {"fold": case.fold} for case in table.cases})
    step = replace(step, settings=flat_settings(step.configuration))
    earlier = read_steps(run.out).get(STEP)
    if earlier is not None and run.resume:
        ids = dict.fromkeys((*earlier.inputs, *step.inputs))
        differences = earlier.differences(step)
        for case_id in ids:
            old, new = (known.get(case_id, {}).get("fold", "not there") for known in (earlier.inputs, step.inputs))
            differences += [f"fold of {case_id}: was {old}, is {new}"] if old != new else []
        if differences:
            raise CaseError(
                "the folder holds the folds of another run",
                file=run.out,
                found=list_differences(differences),
                remedy="Choose another --out, or start again there with --no-resume.",
            )
        return
    with occupied(run.out, deep=False):
        names = [path.name for path in run.out.glob("fold*") if path.is_dir()]
        if not run.resume:
            set_aside(run.out, [MANIFEST, *names, PREDICTIONS, *RESULTS], earlier.started if earlier else "")
        keep_recipe(run.of(), run.out)
        write_steps(run.out, {**read_steps(run.out), STEP: step})


def _tabulated(run: FoldsRun, workflow: Workflow, table: Folds, wanted: Sequence[str]) -> FoldsResult:
    """Measure the folds that are there; another process that is at it is left to do so."""
    names = [fold for fold in table.names if (run.folder(fold) / FAILED).is_file()]
    problems = [f"fold {fold}: {text}" for fold in wanted if (text := _read_json(run.folder(fold) / DONE)["problem"])]
    if holder(run.out) is not None:
        logger.warning("another process is making the tables: run the command again when it is done")
        return FoldsResult(run.out, problem="; ".join(problems))
    missing = [name for name in table.names if name not in names]
    notices = [*table.notices, *([f"Not there yet: fold {', '.join(missing)}."] if missing else [])]
    modalities = tuple(declared(workflow.parser.get("modalities")))
    own = own_rule(workflow)
    reasons: dict[str, str] = {}
    for name in names:
        reasons |= _read_json(run.folder(name) / FAILED)
    inputs = [path for case in table.cases for path in inputs_of(case)]
    with occupied(run.out, inputs, RESUME, deep=False), recording(run.out, STEP, read_steps(run.out)[STEP]):
        cases = [case for name in names for case in table.of(name)]
        found = measure_folds(cases, run.out / PREDICTIONS, modalities, own, reasons)
        text = write_tables(found, modalities, run.out, own, notices)
    failures = tuple(dict.fromkeys(row["case"] for row in found.rows if is_failed(row) and row["subset"] == "all"))
    if failures:
        problems.append(f"{len(failures)} of {len(cases)} cases have no score: {', '.join(failures)}")
    rule = None if found.rule is None else found.rule.as_dict()
    return FoldsResult(run.out, tuple(found.rows), text, rule, failures, "; ".join(problems))


def own_rule(workflow: Workflow) -> Rule:
    """The bundle's own rule: threshold and components of its ``postprocessing``."""
    parser = workflow.parser
    entry = parser.get("postprocessing")
    if not isinstance(entry, Mapping) or not str(entry.get("_target_", "")).startswith("differseg_med."):
        return Rule()
    with readable(workflow.configuration):
        names = [name for name in entry if name in Rule.__dataclass_fields__]
        return Rule(**{name: parser.get_parsed_content(f"postprocessing::{name}") for name in names})


def _in_processes(run: FoldsRun, folds: Sequence[str], jobs: int) -> None:
    """Do the folds, ``jobs`` at a time; where one stops, the others go on.

    Raises:
        CaseError: naming the folds that stopped.
    """
    quick = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if quick else "spawn")
    if quick:
        context.set_forkserver_preload([__name__])  # torch and MONAI are imported once, not by every fold
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running, stopped = list(folds), dict[str, Any](), list[str]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                fold = waiting.pop(0)
                running[fold] = context.Process(target=_process, args=(run, fold, threads))
                running[fold].start()
            multiprocessing.connection.wait([process.sentinel for process in running.values()])
            for fold, process in list(running.items()):
                if not process.is_alive():
                    stopped += [fold] if process.exitcode else []
                    del running[fold]
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()
    if stopped:
        raise CaseError(
            f"fold {', '.join(stopped)} stopped, the others are done", remedy=f"See its message above. {RESUME}"
        )


def _process(run: FoldsRun, fold: str, threads: int) -> None:
    """A fold in a process of its own."""
    torch.set_num_threads(threads)
    raise SystemExit(exit_code(lambda: do_fold(run, fold)))


def _has_cache(parser: ConfigParser) -> bool:
    """Whether the folds can share a cache: the training's data set takes one."""
    if "cache_dir" in parser:
        return True
    entry = parser.get("train::dataset") if "train::dataset" in parser else None
    target = str(entry.get("_target_", "")) if isinstance(entry, Mapping) else ""
    return target.split(".")[-1] in ("labelled_cases", "training_dataset")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
