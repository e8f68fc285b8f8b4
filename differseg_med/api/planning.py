"""Plan a bundle for a cohort from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from differseg_med.api.running import Set
from differseg_med.bundles.new import check_folder
from differseg_med.cohort.kinds import parse_kinds, with_kinds
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.planning.jobs import PlannedBundle, plan_bundle
from differseg_med.progress import progress_bar, progress_shown


def plan(
    cohort: str | Path,
    out: str | Path,
    *,
    target: str = "",
    modalities: Mapping[str, str] | Sequence[str] = (),
    time: str = "2h",
    device: str | None = None,
    memory: str | None = None,
    settings: Set = (),
    progress: bool = False,
) -> PlannedBundle:
    """Make a bundle for the task of a cohort from its training cases and this machine, with a reason for each value.

    A table that has neither folds nor a validation gets them, and a note says so.

    Args:
        cohort: the table.
        out: folder of the bundle, which is made.
        target: what the masks show: ``liver lesion``, or ``MS lesion=brain lesion`` (name=words that are looked up).
        modalities: columns to use, the first the reference if several would do; with their kinds (``{"flair": "mr"}``)
            where the table does not say them. Default: all.
        time: for one training: ``20min``, ``2h``, ``1d``.
        device: where the training will run; None for a GPU if there is one.
        memory: that a training may use, ``8GB``; None for what is free.
        settings: values in place of the rules'.
        progress: draw bars on a terminal.

    Raises:
        CaseError: if the cases, the memory or a setting stand in the way, or ``out`` is there already.
    """
    check_folder(Path(out))
    kinds = {name: kind for name, kind in modalities.items() if kind} if isinstance(modalities, Mapping) else {}
    given = parse_kinds([f"{name}={kind}" for name, kind in kinds.items()])
    table = read_cohort(cohort, [*modalities] or table_modalities(cohort))
    if table.problem is not None and given:
        raise table.problem  # a kind of a column that is not there
    options: dict[str, Any] = {"time": time, "device": device, "memory": memory, "target": target, "settings": settings}
    with progress_shown(progress):
        return plan_bundle(with_kinds(table, given), out, progress=partial(progress_bar, unit="case"), **options)
