"""Run a bundle's workflow and hand back its evaluator; failed cases are results, not exit codes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from differseg_med.api.results import CohortResult
from differseg_med.bundles.workflows import BundleRun, Workflow, readable
from differseg_med.errors import ConfigError
from differseg_med.prediction.evaluator import CohortEvaluator
from differseg_med.prediction.result import CaseWriter
from differseg_med.progress import progress_shown
from differseg_med.runs.manifest import configured

Set = Mapping[str, Any] | Sequence[str]
"""Entries or arguments of a configuration: ``{"threshold": 0.4}``, or ``["threshold=0.4"]`` as on the command line."""


def configs(presets: Sequence[str | Path], *others: str) -> list[str]:
    """Names of the configurations of a run, presets last."""
    return ["inference", *others, *map(str, presets)]


def options_of(split: str | None, withhold: Sequence[str], device: str | None) -> dict[str, Any]:
    """What every run takes, as options of a `BundleRun`."""
    return {"split": split, "withhold": list(withhold) or None, "device": device}


def run_bundle(run: BundleRun, progress: bool, writer: CaseWriter | None = None) -> Workflow:
    """Run to the end; failed cases are in the result, not in the exit code of ``finalize``."""
    with quiet_monai(), progress_shown(progress):
        workflow = run.open()
        with configured(workflow.parser.get()):
            workflow.initialize()
            if writer is not None:
                evaluator = _evaluator_of(workflow)
                evaluator.writers = (*evaluator.writers, writer)
            workflow.run()
            try:
                workflow.finalize()
            except SystemExit as stop:
                logging.getLogger(__name__).debug("finalize: %s", stop)
    return workflow


def run_evaluator(run: BundleRun, progress: bool, writer: CaseWriter | None = None) -> CohortEvaluator:
    """Run to the end; the evaluator, with its summary and metrics.

    Raises:
        CaseError: if the run cannot start.
    """
    return _evaluator_of(run_bundle(run, progress, writer))


def _evaluator_of(workflow: Workflow) -> CohortEvaluator:
    with readable(workflow.configuration):
        evaluator = workflow.parser.get_parsed_content("evaluator")
    if not isinstance(evaluator, CohortEvaluator):
        raise ConfigError("it is no CohortEvaluator", entry="evaluator", found=type(evaluator).__name__)
    return evaluator


def result_of(evaluator: CohortEvaluator) -> CohortResult:
    """What an evaluator found, as a result."""
    return CohortResult(
        evaluator.output_dir,
        tuple(evaluator.summary.rows),
        tuple(evaluator.metrics),
        tuple(dict.fromkeys(evaluator.failures)),
        evaluator.problem,
    )


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Leave out what MONAI and ignite say of themselves on every run; their levels are restored."""
    loggers = [logging.getLogger(name) for name in ("ignite", "monai", "monai.bundle.workflows")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
