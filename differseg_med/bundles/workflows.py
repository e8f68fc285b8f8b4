"""Run a bundle from Python: the command line's only job."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from differseg_med.bundles.lint import check_trust
from differseg_med.bundles.manifest import check_manifest
from differseg_med.bundles.values import as_device, as_value
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.errors import CaseError, exit_code
from differseg_med.evaluation.compare import compare
from differseg_med.evaluation.evaluate import evaluate_cohort
from differseg_med.evaluation.subsets import all_subsets, subset_name, write_subsets
from differseg_med.metrics.case import Settings
from differseg_med.metrics.policy import KNOWN
from differseg_med.paths import inside
from differseg_med.prediction.summary import FAILED, as_predicted
from differseg_med.progress import progress_bar

logger = logging.getLogger(__name__)

#: Columns of subsets.csv that are shown at the end of a run.
SHOWN = ("given", "cases", "dice_mean", "hd95_mm_mean")


def run_bundle(
    bundle: str | Path,
    configs: Sequence[str],
    cohort: str | Path,
    output_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    trust: bool = False,
) -> int:
    """Run configurations of a bundle, later ones over earlier ones; the same as ``python -m monai.bundle run``.

    Args:
        bundle: folder of the bundle.
        configs: names in its ``configs`` folder without ending, for example ``["inference", "evaluate"]``, or paths of
            other YAML files, such as presets.
        cohort: cohort table.
        output_dir: folder of the results.
        options: entries of the configuration to override; None values are left as they are.
        settings: more of them as ``name=value`` with a YAML value.
        trust: run configurations whatever they name, see `differseg_med.bundles.lint`.

    Returns:
        The exit code: 0, or 1 if a case failed or the run could not start (the reason is on stderr).
    """

    def job() -> None:
        workflow = open_bundle(bundle, configs, cohort, output_dir, options, settings, trust)
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    return exit_code(job)


def run_subsets(
    bundle: str | Path,
    cohort: str | Path,
    output_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    trust: bool = False,
) -> int:
    """Evaluate a bundle with every subset of its modalities and write ``subsets.csv``, ``.png`` and ``.html``.

    Each subset's masks and metrics are in ``output_dir/<modalities>``. Arguments and result as for `run_bundle`.
    """

    def job() -> None:
        names = tuple(_settings_of([Path(bundle) / "configs" / "inference.yaml"])["modalities"])
        results: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        failures: list[str] = []
        for subset in all_subsets(names):
            given = {**(options or {}), "withhold": [name for name in names if name not in subset]}
            folder = inside(output_dir, subset_name(subset))
            workflow = open_bundle(bundle, ["inference", "evaluate"], cohort, folder, given, settings, trust)
            workflow.initialize()
            workflow.run()
            evaluator = workflow.parser.get_parsed_content("evaluator")
            results[subset] = evaluator.metrics
            failures += evaluator.failures
        if not any(row["status"] != FAILED for rows in results.values() for row in rows):
            raise SystemExit("no case could be measured with any subset, see each subset's summary.csv")
        for line in write_subsets(results, names, output_dir):
            logger.info("%s", ", ".join(f"{key} {value}" for key, value in line.items() if key in SHOWN))
        if failures:
            raise SystemExit(f"{len(failures)} runs of a case failed, see each subset's summary.csv")

    return exit_code(job)


def measure(
    predictions: str | Path, cohort: str | Path, output_dir: str | Path, split: str | None = None, stretch: bool = False
) -> int:
    """Measure masks that are already there (see `mask_file`) against a cohort's labels; ``stretch``: see `Settings`."""

    def job() -> None:
        cases = as_predicted(read_cohort(cohort, table_modalities(cohort)).select(split), predictions)
        evaluation = evaluate_cohort(
            cases,
            predictions,
            output_dir,
            settings=Settings(stretch=stretch),
            progress=partial(progress_bar, unit="case"),
        )
        if evaluation.failures:
            raise SystemExit(f"{len(evaluation.failures)} of {len(cases)} cases failed, see {evaluation.out_dir}")

    return exit_code(job)


def compare_models(tables: Sequence[str | Path], output_dir: str | Path) -> int:
    """Compare models by their ``metrics.csv``; each is named by its folder."""

    def job() -> None:
        for r in compare(dict(zip(_names(tables), tables)), output_dir):
            label = KNOWN[r.measure].label
            logger.info("%s, %s - %s: mean %+.3f, p (Holm) %.2g", label, r.second, r.first, r.mean_difference, r.p_holm)
        logger.info("%s", Path(output_dir) / "comparison.html")

    return exit_code(job)


def open_bundle(
    bundle: str | Path,
    configs: Sequence[str],
    cohort: str | Path,
    output_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    trust: bool = False,
) -> ConfigWorkflow:
    """The MONAI workflow behind `run_bundle`, not yet initialized.

    Raises:
        CaseError: for a configuration that is not there or names what may not run, a bundle that is not the one of its
            manifest, or a setting that is no ``name=value`` of a known name.
    """
    folder = Path(bundle) / "configs"
    files = [Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml" for name in configs]
    for file in files:
        if not file.is_file():
            raise CaseError(
                "there is no such configuration", file=file, remedy="Check the path of the bundle or preset."
            )
    if not trust:
        check_trust([*files, *filter(Path.is_file, [folder / "metadata.json"])])
        check_manifest(bundle)
    else:
        logger.warning("--trust: the bundle is run as it is, and may run any program and open any file")
    overrides: dict[str, Any] = {k: as_value(v) for k, v in (options or {}).items() if v is not None}
    if unknown := [name for name in overrides if name not in _settings_of(files)]:
        raise CaseError(f"the bundle has no entry {unknown[0]!r}", file=files[0], remedy="Leave the option out.")
    if "device" in overrides:
        overrides["device"] = as_device(str((options or {})["device"]))
    overrides |= _parse(settings, files)
    with warnings.catch_warnings():
        if not trust:  # MONAI warns on every run that configurations execute code: these were judged
            warnings.simplefilter("ignore", UserWarning)
        return (ConfigWorkflow if trust else _Judged)(
            config_file=[str(file) for file in files],
            meta_file=str(folder / "metadata.json"),
            logging_file=False,
            workflow_type="train" if "train" in configs else "inference",
            bundle_root=as_value(Path(bundle)),
            cohort=as_value(Path(cohort)),
            output_dir=as_value(Path(output_dir)),
            **overrides,
        )


class _Judged(ConfigWorkflow):
    """MONAI's workflow without what a bundle's folder could bring besides its configurations."""

    def run(self) -> Any:
        """As MONAI's, but the bundle's folder is no place to import from: its ``requests.py`` would be ours."""
        return self._run_expr(id=self.run_id)


def _parse(settings: Sequence[str], files: Sequence[Path]) -> dict[str, Any]:
    known = _settings_of(files)
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        # Names that begin with an underscore are MONAI's own: _target_ makes code of a value.
        if not equals or name.split("::")[0] not in known or any(part.startswith("_") for part in name.split("::")):
            raise CaseError(
                f"--set {setting} is not understood",
                expected=f"name=value, name one of {', '.join(sorted(known))}",
                remedy="See the bundle's configs for what each entry means.",
            )
        try:
            parsed[name] = as_value(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise CaseError(f"--set {setting} is not understood", expected="a YAML value after =") from error
    return parsed


def _settings_of(files: Sequence[Path]) -> dict[str, Any]:
    """Top-level entries of configurations, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for file in files:
        merged |= yaml.safe_load(file.read_text(encoding="utf-8"))
    return merged


def _names(tables: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the tables' folders that tell them apart."""
    folders = [Path(table).resolve().parent.parts for table in tables]
    depth = 1
    while len({f[-depth:] for f in folders}) < len(folders) and depth < max(map(len, folders)):
        depth += 1
    return ["/".join(f[-depth:]) for f in folders]
