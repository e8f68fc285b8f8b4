"""``summary.csv``: one row per case of a run, on disk after every case."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from differseg_med.atomic import write_text
from differseg_med.evaluation.evaluate import mask_file

FILE = "summary.csv"
COLUMNS = (
    "case_id",
    "status",
    "reason",
    "modalities",
    "seconds",
    "volume_ml",
    "boundary_entropy",
    "reference",
    "flags",
    "notes",
)
"""Columns that every run has; writers may add others."""

DONE, INCOMPLETE, FAILED = "done", "incomplete", "failed"
"""Values of ``status``. Incomplete: the mask is there, another file that was asked for is not."""

Row = dict[str, object]


class Summary:
    """The rows of a run, in the order of its cases.

    Args:
        folder: where ``summary.csv`` is.
        finished: rows of an earlier run, by case id. Those that this run has not reached yet stay in the file, so that
            a second interruption forgets nothing.
    """

    def __init__(self, folder: str | Path, finished: Mapping[str, Row] | None = None) -> None:
        self.folder, self.finished = Path(folder), dict(finished or {})
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Add a row and write the file in one step."""
        self.rows.append(row)
        rows = self.all_rows
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])), "")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / FILE, text.getvalue())

    @property
    def all_rows(self) -> list[Row]:
        """The rows, then those of the earlier run that this one has not reached."""
        reached = {row["case_id"] for row in self.rows}
        return [*self.rows, *(row for case_id, row in self.finished.items() if case_id not in reached)]

    def with_status(self, *statuses: str) -> list[Row]:
        """The rows that have one of these."""
        return [row for row in self.rows if row["status"] in statuses]


def read_finished(folder: str | Path) -> dict[str, Row]:
    """Rows of an earlier run whose case is done and whose mask is still there, by case id."""
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: value or "" for name, value in row.items() if name} for row in csv.DictReader(file)]
    return {
        row["case_id"]: dict.fromkeys(COLUMNS, "") | row
        for row in rows
        if row.get("status") == DONE and mask_file(path.parent, row.get("case_id", "")).is_file()
    }
