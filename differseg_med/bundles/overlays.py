"""Configurations that stand on others: which file is missing, before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigWorkflow
from monai.bundle.scripts import create_workflow

from differseg_med.bundles.configuration import SEP
from differseg_med.errors import CaseError

_MARKS = {"inference.yaml": f"network_def{SEP}_target_", "train.yaml": f"train{SEP}trainer{SEP}_target_"}
"""An entry that each file brings, and no overlay of it."""


def overlay(file: str, over: Sequence[str] = ("inference.yaml",)) -> None:
    """Refuse to run a configuration without those that it changes, or before them; the first of its ``initialize``.

    MONAI reads any list of files, and a reference to nothing stops it with the name of an entry that no user wrote.

    Args:
        file: name of the overlay.
        over: names of the files below it, the lowest first.

    Raises:
        CaseError: with the whole command.
    """
    workflow, given = _running()
    if workflow is None:
        return
    names = [Path(path).name for path in given]
    missing = [name for name in over if _MARKS[name] not in workflow.parser]
    late = [name for name in over if {name, file} <= set(names) and names.index(name) > names.index(file)]
    if not missing and not late:
        return
    folder = workflow.config_root_path
    own = next((path for path in given if Path(path).name == file), str(folder / file))
    below = folder if (folder / over[0]).is_file() else Path("BUNDLE") / "configs"  # a preset lies elsewhere
    files = ",".join(f"'{path}'" for path in (*(below / name for name in over), own))
    bundle = f"--meta_file {below / 'metadata.json'} --bundle_root {below.parent}"
    raise CaseError(
        "this configuration changes others and does not run without them",
        file=own,
        expected=f"{' and '.join(over)} before it",
        found=", ".join(names) or f"no {' and no '.join(missing)}",
        remedy=f'Run python -m monai.bundle run --config_file "[{files}]" {bundle}',
    )


def _running() -> tuple[ConfigWorkflow | None, list[str]]:
    """The workflow that is being initialized, and the files that it was made of, where MONAI's frames tell them."""
    frame, workflow = inspect.currentframe(), None
    while frame is not None:
        own = frame.f_locals.get("self")
        if workflow is None and isinstance(own, ConfigWorkflow):
            workflow = own
        if frame.f_code is create_workflow.__code__:
            given = frame.f_locals.get("_args", {}).get("config_file") or frame.f_locals.get("config_file") or []
            return workflow, [given] if isinstance(given, str) else [str(path) for path in given]
        frame = frame.f_back
    return workflow, []
