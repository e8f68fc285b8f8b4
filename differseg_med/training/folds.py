"""The folds of a cohort table: which rows count, and the table that one fold is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from differseg_med.case import Case, Cohort
from differseg_med.cohort.leaks import subject_leaks
from differseg_med.errors import CaseError
from differseg_med.paths import safe_part

MOST = 5
"""Folds that are proposed where there are patients enough."""

OUT_OF_FOLD = "out_of_fold"
"""Split of a fold's own rows: nothing is chosen on them, not even the epoch; they are predicted after the training."""


@dataclass(frozen=True)
class Folds:
    """The folds of a table.

    Args:
        names: as the table has them, numbers in their order.
        cases: the rows that take part: with a label and a fold, not of split "test".
        notices: rows that do not, and folds that say little.
    """

    names: tuple[str, ...]
    cases: tuple[Case, ...]
    notices: tuple[str, ...] = ()

    def of(self, name: str) -> tuple[Case, ...]:
        """The cases of a fold."""
        return tuple(case for case in self.cases if case.fold == name)

    def for_training(self, name: str) -> list[Case]:
        """All cases, split for one fold: its own are "validation", those of the others "train"."""
        return [replace(case, split="validation" if case.fold == name else "train") for case in self.cases]

    def chosen(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The folds of these names; None for all.

        Raises:
            CaseError: for one that the table does not have.
        """
        unknown = [name for name in wanted or () if name not in self.names]
        if unknown:
            raise CaseError(f"there is no fold {unknown[0]!r}", expected=f"some of {', '.join(self.names)}, or all")
        return self.names if wanted is None else tuple(name for name in self.names if name in wanted)


def read_folds(cohort: Cohort) -> Folds:
    """The folds of a table.

    Raises:
        CaseError: for a table without folds or with one only, a subject in two folds, or no labelled row; each with
            what to do.
    """
    if cohort.problem is not None:
        raise cohort.problem
    possible = [case for case in cohort.cases if case.split != "test"]
    if not any(case.fold for case in possible):
        raise CaseError(
            "the table has no folds",
            file=cohort.path,
            expected="the column fold",
            remedy=_remedy(cohort.path, possible),
        )
    if found := [finding for finding in subject_leaks(possible) if finding.column == "fold"]:
        raise CaseError(found[0].text, file=cohort.path, remedy=found[0].remedy)
    cases = [case for case in possible if case.fold and (case.label is not None or case.problem is not None)]
    names = tuple(sorted({case.fold for case in cases}, key=_order))
    if not names:
        raise CaseError("no row has a fold and a label", file=cohort.path, remedy="Fill in the column label.")
    if len(names) == 1:
        raise CaseError(
            f"all labelled rows are in fold {names[0]}, so nothing is left to train on",
            file=cohort.path,
            expected="two folds or more",
            remedy=f"{_remedy(cohort.path, possible)[:-1]} --reshuffle.",
        )
    for name in names:
        safe_part(f"fold{name}", "name of the fold")
    return Folds(names, tuple(cases), tuple(_notices(cohort, possible, cases, names)))


def _notices(cohort: Cohort, possible: Sequence[Case], cases: Sequence[Case], names: Sequence[str]) -> list[str]:
    lines = []
    groups = {
        "their split is test": [case for case in cohort.cases if case.split == "test"],
        "no fold": [case for case in possible if not case.fold],
        "no label": [case for case in possible if case.fold and case.label is None and case.problem is None],
    }
    for reason, rows in groups.items():
        if rows:
            few = ", ".join(case.case_id for case in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
            lines.append(f"not used: {len(rows)} rows: {reason}: {few}")
    patients = {name: {case.subject_id for case in cases if case.fold == name} for name in names}
    everyone = set().union(*patients.values())
    if single := [name for name in names if len(patients[name]) == 1]:
        which = "Every fold holds" if single == list(names) else f"Fold {' and '.join(single)}: each holds"
        lines.append(f"{which} one patient, so that its score is that patient's; the mean over all is what counts.")
    if lonely := [name for name in names if len(everyone - patients[name]) == 1]:
        which = " and ".join(lonely)
        lines.append(f"Fold {which}: one patient is left to train on; more folds leave more (cohort folds --k).")
    return lines


def _order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (10**9, name)


def _remedy(table: Path, cases: Sequence[Case]) -> str:
    count = max(2, min(MOST, len({case.subject_id for case in cases})))
    return f"Make them: differseg-med cohort folds {table.name} --k {count}."
