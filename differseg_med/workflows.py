"""Run a bundle from Python: the command line's only job."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from differseg_med.errors import CaseError


def run_bundle(
    bundle: str | Path,
    configs: Sequence[str],
    cohort: str | Path,
    output_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> int:
    """Run configurations of a bundle, later ones over earlier ones; the same as ``python -m monai.bundle run``.

    Args:
        bundle: folder of the bundle.
        configs: names in its ``configs`` folder without ending, for example ``["inference", "evaluate"]``.
        cohort: cohort table.
        output_dir: folder of the results.
        options: entries of the configuration to override; None values are left as they are.
        settings: more of them as ``name=value`` with a YAML value.

    Returns:
        The exit code: 0, or 1 if a case failed or the run could not start (the reason is on stderr).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # What MONAI and ignite say of themselves on every run; our own messages and progress bars tell the rest.
    for name in ("ignite", "monai", "monai.bundle.workflows"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        workflow = open_bundle(bundle, configs, cohort, output_dir, options, settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except CaseError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    except SystemExit as stop:
        if isinstance(stop.code, str):
            logging.getLogger(__name__).error("%s", stop.code)
            return 1
        return int(stop.code or 0)
    return 0


def open_bundle(
    bundle: str | Path,
    configs: Sequence[str],
    cohort: str | Path,
    output_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> ConfigWorkflow:
    """The MONAI workflow behind `run_bundle`, not yet initialized.

    Raises:
        CaseError: for a configuration that is not there, or a setting that is no ``name=value`` of a known name.
    """
    folder = Path(bundle) / "configs"
    files = [folder / f"{name}.yaml" for name in configs]
    for file in files:
        if not file.is_file():
            raise CaseError("the bundle has no such configuration", file=file, remedy="Check the path of the bundle.")
    overrides: dict[str, Any] = {k: v for k, v in (options or {}).items() if v is not None}
    if "device" in overrides:
        overrides["device"] = f"$torch.device('{overrides['device']}')"
    overrides |= _parse(settings, files)
    with warnings.catch_warnings():
        # MONAI warns on every run that configurations execute code; this command names the bundle explicitly.
        warnings.simplefilter("ignore", UserWarning)
        return ConfigWorkflow(
            config_file=[str(file) for file in files],
            meta_file=str(folder / "metadata.json"),
            logging_file=False,
            workflow_type="train" if "train" in configs else "inference",
            bundle_root=str(bundle),
            cohort=str(cohort),
            output_dir=str(output_dir),
            **overrides,
        )


def _parse(settings: Sequence[str], files: Sequence[Path]) -> dict[str, Any]:
    known = {name for file in files for name in yaml.safe_load(file.read_text(encoding="utf-8"))}
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name.split("::")[0] not in known:
            raise CaseError(
                f"--set {setting} is not understood",
                expected=f"name=value, name one of {', '.join(sorted(known))}",
                remedy="See the bundle's configs for what each entry means.",
            )
        parsed[name] = yaml.safe_load(value)
    return parsed
