"""Which rows of a table a run uses, which not, and why: told before anything costs time."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from differseg_med.case import Case, Cohort

KNOWN_SPLITS = ("train", "validation", "test")


def usage_lines(cohort: Cohort, splits: Sequence[str] | None, *, needs_label: bool) -> list[str]:
    """The rows by what becomes of them.

    Args:
        cohort: the table.
        splits: that the run uses; None for all rows.
        needs_label: whether a row without a label is of no use to it.
    """
    wanted = [case for case in cohort.cases if splits is None or case.split in splits]
    usable = [case for case in wanted if not _why_not(case, needs_label)]
    what = "all rows" if splits is None else f"split {' and '.join(splits)}"
    lines = [f"{what}: {len(usable)} of {len(cohort.cases)} rows are used"]
    for reason, count in Counter(filter(None, (_why_not(case, needs_label) for case in wanted))).items():
        ids = [case.case_id for case in wanted if _why_not(case, needs_label) == reason]
        lines.append(f"not used: {count} rows: {reason}: {_few(ids)}")
    others = Counter(case.split for case in cohort.cases if splits is not None and case.split not in splits)
    for split, count in others.items():
        misspelt = split and split not in KNOWN_SPLITS
        near = difflib.get_close_matches(split.casefold(), KNOWN_SPLITS, 1, 0.6) if misspelt else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        why = f"their split is {split!r}{hint}" if split else "they have no split"
        lines.append(f"not used: {count} rows: {why}")
    return lines


def _why_not(case: Case, needs_label: bool) -> str:
    if case.problem is not None:
        return case.problem.problem
    if not case.images:
        return "no image"
    return "no label" if needs_label and case.label is None else ""


def _few(ids: Sequence[str], most: int = 5) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")
