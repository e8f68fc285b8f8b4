"""``summary.csv``: one row per case of a run, on disk after every case."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from differseg_med.atomic import write_text
from differseg_med.case import Case
from differseg_med.evaluation.predictions import mask_file
from differseg_med.metrics import rows as metrics
from differseg_med.paths import unsafe
from differseg_med.tables import guarded, unguarded

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

DONE, INCOMPLETE, FAILED = metrics.DONE, "incomplete", metrics.FAILED
"""Values of ``status``. Incomplete: the mask is there, another file that was asked for is not."""

SummaryRow = dict[str, object]


class Summary:
    """The rows of a run: each is appended to the file when its case is done, and at the end they are put in order.

    Until then a case may stand twice in the file of a resumed run; the later row counts, see `read_summary`.

    Args:
        folder: where ``summary.csv`` is.
        finished: rows of an earlier run, by case id. Those that this run has not reached yet stay in the file, so that
            a second interruption forgets nothing.
    """

    def __init__(self, folder: str | Path, finished: Mapping[str, SummaryRow] | None = None) -> None:
        self.folder, self.finished = Path(folder), dict(finished or {})
        self.rows: list[SummaryRow] = []
        self._columns: tuple[str, ...] = ()
        self._size = -1  # of the file as we left it

    def add(self, row: SummaryRow) -> None:
        """Add a row and bring it to the disk: the rows before it are written again only if there is a new column."""
        self.rows.append(row)
        path = self.folder / FILE
        if not row.keys() <= set(self._columns) or not path.is_file() or path.stat().st_size != self._size:
            self.write()
        elif row != self.finished.get(str(row["case_id"])):  # else it is there already
            _append(path, self._text([row]))
            self._size = path.stat().st_size

    def write(self) -> None:
        """Write all rows in one step, in the order of the cases."""
        rows = self.all_rows
        self._columns = tuple(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
        write_text(self.folder / FILE, self._text([dict(zip(self._columns, self._columns)), *rows]))
        self._size = (self.folder / FILE).stat().st_size

    def _text(self, rows: Iterable[SummaryRow]) -> str:
        text = io.StringIO()
        safe = ({name: guarded(cell) for name, cell in row.items()} for row in rows)
        csv.DictWriter(text, self._columns, "").writerows(safe)
        return text.getvalue()

    @property
    def all_rows(self) -> list[SummaryRow]:
        """The rows, then those of the earlier run that this one has not reached."""
        reached = {row["case_id"] for row in self.rows}
        return [*self.rows, *(row for case_id, row in self.finished.items() if case_id not in reached)]

    def with_status(self, *statuses: str) -> list[SummaryRow]:
        """The rows that have one of these."""
        return [row for row in self.rows if row["status"] in statuses]


def problem_of(failed: Sequence[str], total: int, files: str = "summary.csv says") -> str:
    """What failed in one sentence; empty if nothing did.

    Args:
        failed: ids of the cases that failed or are incomplete.
        total: number of cases.
        files: which tell why.
    """
    if not failed:
        return ""
    others = ", the others are done" if len(failed) < total else ""
    ids = ", ".join(dict.fromkeys(failed))
    return f"{len(failed)} of {total} cases failed or are incomplete{others}; {files} why: {ids}"


def _append(path: Path, text: str) -> None:
    """Append to a file and wait for the disk; what cannot be written whole is taken away again."""
    with path.open("r+b") as file:
        before = file.seek(0, os.SEEK_END)
        try:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def read_summary(path: str | Path) -> list[SummaryRow]:
    """The rows of a ``summary.csv``, the last one of each case, without one that a killed run has not finished."""
    text = Path(path).read_bytes().decode("utf-8", "replace")
    ours = text.partition("\n")[0].endswith("\r")  # else another program saved it, whole
    whole = text[: text.rfind("\r\n") + 2] if ours else text
    reader = csv.reader(io.StringIO(whole, newline=""), strict=True)
    rows: dict[str, SummaryRow] = {}
    try:
        header = next(reader, [])
        for cells in reader:
            row: SummaryRow = dict(zip(header, [*map(unguarded, cells), *[""] * len(header)]))
            rows.pop(str(row.get("case_id", "")), None)
            rows[str(row.get("case_id", ""))] = row
    except csv.Error:  # cut off inside a cell that has several lines
        pass
    return list(rows.values())


def read_finished(folder: str | Path, statuses: Sequence[str] = (DONE,)) -> dict[str, SummaryRow]:
    """Rows of an earlier run whose case has one of ``statuses`` and whose mask is still there, by case id."""
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    return {
        str(row["case_id"]): dict.fromkeys(COLUMNS, "") | row
        for row in read_summary(path)
        if row.get("status") in statuses
        and not unsafe(str(row.get("case_id", "")))
        and mask_file(path.parent, str(row["case_id"])).is_file()
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
