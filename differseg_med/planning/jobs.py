"""What the commands ``plan`` and ``new`` do: a cohort, or names of modalities, to a bundle's folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from differseg_med.bundles.new import check_folder
from differseg_med.case import Case, Cohort
from differseg_med.cohort.folds import assign_folds, levels_of, with_folds
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError
from differseg_med.modality import KINDS, Modality
from differseg_med.planning.choices import Choice, Plan
from differseg_med.planning.cost import parse_memory, parse_time, told_time
from differseg_med.planning.defaults import plan_without_data
from differseg_med.planning.planner import FLAT_KINDS, plan_cohort
from differseg_med.planning.terminology import look_up
from differseg_med.planning.writing import write_plan
from differseg_med.runs.stamps import inputs_of
from differseg_med.runs.tables import written_table

PLANNED_FOLDS = 5

_NAME = re.compile(r"[^\W_][\w .()+-]{0,63}")
"""Names of modalities that mean nothing else to MONAI, YAML and the lint of bundles."""


@dataclass(frozen=True)
class PlannedBundle:
    """A bundle that a plan made.

    Args:
        folder: of the bundle.
        choices: each value with its reason, by name; docs/PLAN.md of the bundle shows them.
        notes: lines that a user should read: what was done to the table, the main choices, how long it will take.
        commands: what comes next.
    """

    folder: Path
    choices: Mapping[str, Choice]
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def plan_bundle(
    cohort: Cohort,
    folder: str | Path,
    *,
    time: str = "2h",
    device: str | None = None,
    memory: str | None = None,
    target: str = "",
    settings: Mapping[str, Any] | Sequence[str] = (),
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> PlannedBundle:
    """Plan a bundle and write it.

    A table without folds and without a validation gets folds, and splits if it has none, as a training needs them.

    Args:
        cohort: the table.
        folder: the bundle, which is not there yet.
        time: for one training, ``2h``.
        device: where it will run.
        memory: that it may use, ``8GB``.
        target: what the masks show, see `look_up`.
        settings: values by name, or ``name=value``, in place of what rules say.
        progress: wraps the cases.

    Raises:
        CaseError: for anything that stands in the way.
    """
    folder = Path(folder)
    check_folder(folder)
    _check_names(cohort.modalities)
    terms, overrides, seconds = look_up(target), _overrides(settings), parse_time(time)
    bytes_asked = parse_memory(memory) if memory else None
    plan, fingerprint, cases = plan_cohort(
        cohort,
        seconds=seconds,
        memory=bytes_asked,
        device=device,
        target=terms.label if target else "",
        overrides=overrides,
        progress=progress,
    )
    lines, cases = _with_folds(cohort, cases)
    commands = _commands(folder, cohort.path)
    write_plan(folder, plan, terms, flat=fingerprint.flat, fingerprint=fingerprint, commands=commands)
    told = ("size", "pixdim", "spatial_size", "planes", "roi_size", "batch_size", "max_epochs", "flip_prob")
    lines += [
        f"{name} {plan.choices[name].value}: {plan.choices[name].reason}" for name in told if name in plan.choices
    ]
    lines += [f"{name}: {text}" for name, text in _remarks(plan)]
    lines += [terms.note, _duration(plan, cases, seconds)]
    return PlannedBundle(folder, dict(plan.choices), tuple(lines), tuple(commands))


def bundle_without_data(
    kinds: Mapping[str, str],
    folder: str | Path,
    *,
    target: str = "",
    settings: Sequence[str] = (),
) -> Path:
    """Write a bundle of default values.

    Args:
        kinds: of the modalities by their names, the reference first.
        folder: the bundle, which is not there yet.
        target: what the masks show, see `look_up`.
        settings: ``name=value`` in place of defaults.

    Raises:
        CaseError: for a modality without a kind, 2-D images among volumes, or a name that no bundle can have.
    """
    _check_names(list(kinds))
    if unknown := [name for name, kind in kinds.items() if kind not in KINDS]:
        given = f"{unknown[0]}={kinds[unknown[0]]}" if kinds[unknown[0]] else unknown[0]
        raise CaseError(f"--modalities {given} does not say the kind", expected=f"NAME=KIND, KIND {', '.join(KINDS)}")
    flat = {kind in FLAT_KINDS for kind in kinds.values()}
    if len(flat) > 1:
        raise CaseError("2-D images and volumes cannot be in one bundle", found=", ".join(kinds.values()))
    for name, kind in kinds.items():
        try:
            Modality(name, kind)
        except ValueError as error:
            raise CaseError(str(error)) from error
    check_folder(folder)
    terms, plan = look_up(target), Plan(_overrides(settings))
    plan_without_data(plan, kinds, flat=flat == {True}, target=target)
    return write_plan(folder, plan, terms, flat=flat == {True}, commands=_commands(Path(folder), Path("COHORT.csv")))


def _check_names(columns: Sequence[str]) -> None:
    """Refuse names that are more than a name in a configuration: expressions, references, paths, parts of YAML.

    Raises:
        CaseError: naming the column.
    """
    for name in columns:
        if not _NAME.fullmatch(name) or name != name.strip():
            raise CaseError(
                "the column's name cannot be that of a modality in a bundle",
                expected="at most 64 letters, digits, spaces and . _ ( ) + -, a letter or digit first",
                found=repr(name),
                remedy="Rename the column.",
            )


def _with_folds(cohort: Cohort, cases: Sequence[Case]) -> tuple[list[str], list[Case]]:
    """Fill fold of a table that has neither fold nor validation, and split where it has none.

    Returns:
        A line that says so, and the cases with their folds.
    """
    if any(case.split == "validation" or case.fold for case in cohort.cases):
        return [], list(cases)
    unsplit = not any(case.split for case in cases)  # others may be for the test
    count = min(PLANNED_FOLDS, len({case.subject_id for case in cases}))
    if count < 2:
        raise CaseError(
            "all training cases are of one patient",
            file=cohort.path,
            expected="at least two values in the column subject_id",
            remedy="A validation needs a patient that was not trained on.",
        )
    folds = assign_folds([case.subject_id for case in cases], levels_of(cases, ["modalities"], {}), count)
    placed = {case.case_id: case for case in with_folds(cases, folds, 0 if unsplit else None)}
    done = [placed.get(case.case_id, case) for case in cohort.cases]
    data = [path for case in cohort.cases for path in inputs_of(case)]
    with written_table(cohort.path, "plan", data, in_place=True):
        write_cohort(cohort.path, cohort.modalities, done, cohort.kinds)
    also = "; fold 0 validates a single training" if unsplit else ""
    line = f"{cohort.path.name} had no fold and no validation: its training cases are now in {count} folds{also}"
    return [line], [placed[case.case_id] for case in cases]


def _commands(folder: Path, table: Path) -> list[str]:
    run = f"runs/{folder.name}"
    return [
        f"differseg-med train --bundle {folder} --cohort {table} --folds all --out {run}",
        f"differseg-med release {run} --out released/{folder.name}",
        f"differseg-med predict --bundle released/{folder.name} --cohort NEW_CASES.csv --out results",
    ]


def _duration(plan: Plan, cases: Sequence[Case], seconds: float) -> str:
    """How long the cross-validation takes about: its trainings and its predictions."""
    names = plan.choices["modalities"].value
    subsets = 1 + len(names) if len(names) > 1 else 1
    folds = len({case.fold for case in cases if case.fold}) or PLANNED_FOLDS
    often = f", each {subsets} times (with all modalities and with each withheld)" if subsets > 1 else ""
    training, predicting = told_time(seconds), told_time(len(cases) * subsets * plan.case_seconds)
    return f"train --folds all: about {folds} times {training}, and {predicting} to predict {len(cases)} cases{often}"


def _remarks(plan: Plan) -> list[tuple[str, str]]:
    """Reasons that a user should not have to look for."""
    return [(c.name, c.reason) for c in plan.choices.values() if "**" in c.reason and c.name != "modalities"]


def _overrides(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(settings, Mapping):
        return dict(settings)
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.strip():
            raise CaseError(f"--set {setting} is not understood", expected="name=value, a YAML value")
    return found
