"""Rows of ``metrics.csv``: what each case measures, or why it could not be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

DONE, FAILED = "done", "failed"
"""Values of ``status``, in ``summary.csv`` and ``metrics.csv``."""


def check_rows(rows: Sequence[Row]) -> None:
    """Every row names another case and has either scores or a failure.

    Raises:
        ValueError: that says which row does not.
    """
    seen: set[str] = set()
    for number, row in enumerate(rows):
        case = str(row.get("case_id") or "")
        if not case:
            raise ValueError(f"row {number + 1} of the metrics has no case_id")
        if case in seen:
            raise ValueError(f"case {case} occurs twice in the metrics")
        seen.add(case)
        if not is_failed(row) and not {"dice", "empty"} <= row.keys():
            raise ValueError(f"case {case} has no scores, but has not failed either")


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """The measured rows by rising Dice, those with the same Dice by falling HD95 (pictures have none)."""
    return sorted((row for row in rows if not is_failed(row)), key=lambda row: (row["dice"], -row.get("hd95_mm", 0.0)))


def is_failed(row: Row) -> bool:
    """Whether a row tells of a case that could not be measured."""
    return row.get("status", DONE) == FAILED


def subject_of(row: Row) -> str:
    """The subject of a row; a case without one is a subject of its own."""
    return str(row.get("subject_id") or row["case_id"])
