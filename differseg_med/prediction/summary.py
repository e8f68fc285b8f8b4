"""``summary.csv``: one row per case of a run, on disk after every case."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from differseg_med.atomic import write_text
from differseg_med.case import Case
from differseg_med.evaluation.evaluate import mask_file
from differseg_med.paths import unsafe

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

SummaryRow = dict[str, object]


class Summary:
    """The rows of a run, in the order of its cases.

    Args:
        folder: where ``summary.csv`` is.
        finished: rows of an earlier run, by case id. Those that this run has not reached yet stay in the file, so that
            a second interruption forgets nothing.
    """

    def __init__(self, folder: str | Path, finished: Mapping[str, SummaryRow] | None = None) -> None:
        self.folder, self.finished = Path(folder), dict(finished or {})
        self.rows: list[SummaryRow] = []

    def add(self, row: SummaryRow) -> None:
        """Add a row and write the file in one step."""
        self.rows.append(row)
        rows = self.all_rows
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])), "")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / FILE, text.getvalue())

    @property
    def all_rows(self) -> list[SummaryRow]:
        """The rows, then those of the earlier run that this one has not reached."""
        reached = {row["case_id"] for row in self.rows}
        return [*self.rows, *(row for case_id, row in self.finished.items() if case_id not in reached)]

    def with_status(self, *statuses: str) -> list[SummaryRow]:
        """The rows that have one of these."""
        return [row for row in self.rows if row["status"] in statuses]


def read_finished(folder: str | Path, statuses: Sequence[str] = (DONE,)) -> dict[str, SummaryRow]:
    """Rows of an earlier run whose case has one of ``statuses`` and whose mask is still there, by case id."""
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: value or "" for name, value in row.items() if name} for row in csv.DictReader(file)]
    return {
        row["case_id"]: dict.fromkeys(COLUMNS, "") | row
        for row in rows
        if row.get("status") in statuses
        and not unsafe(row.get("case_id", ""))
        and mask_file(path.parent, row["case_id"]).is_file()
    }


def as_predicted(cases: Iterable[Case], folder: str | Path) -> list[Case]:
    """The cases with those modalities only that their masks in ``folder`` were made from, as its summary tells.

    A modality may have been withheld from a run, or hold nothing. Without a summary the cases are as they are.
    """
    rows = read_finished(folder, (DONE, INCOMPLETE))
    used = {case_id: str(row["modalities"]).split("+") for case_id, row in rows.items()}
    return [
        replace(case, images={m: case.images[m] for m in used[case.case_id]})
        if case.images.keys() >= set(used.get(case.case_id, [""]))
        else case
        for case in cases
    ]
