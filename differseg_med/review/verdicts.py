"""``review.csv``: what a person decided on the mask of each case, on disk as soon as it is decided."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from differseg_med.errors import CaseError, printable
from differseg_med.tables import unguarded, write_table

REVIEW = "review.csv"
ACCEPTED, REJECTED, UNDECIDED = "accepted", "rejected", ""
VERDICTS = (ACCEPTED, REJECTED, UNDECIDED)
LONGEST_NOTE = 2000
"""Characters of a note."""


@dataclass(frozen=True)
class Review:
    """What was decided on a case; all blank as long as nothing was.

    Args:
        verdict: one of `VERDICTS`.
        note: free text.
        mask: hash of the mask's file that was looked at, so that a later mask is not taken for it.
        time: when it was saved, UTC; also tells two states of one case apart.
    """

    verdict: str = UNDECIDED
    note: str = ""
    mask: str = ""
    time: str = ""


class ChangedError(CaseError):
    """Somebody else, another tab perhaps, has saved the case since it was shown.

    Args:
        case: id.
        current: what the file has now.
    """

    def __init__(self, case: str, current: Review) -> None:
        said = f"{current.verdict or 'undecided'}{f', {current.note!r}' if current.note else ''}"
        problem = "this case was saved elsewhere since it was shown here"
        super().__init__(problem, case=case, found=said, remedy="Save again to replace that.")
        self.current = current


class Reviews:
    """The file in a folder of results, which is read before every write: other tabs and programs write it too.

    Args:
        folder: results of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path, self._lock = Path(folder) / REVIEW, threading.Lock()

    def read(self) -> dict[str, Review]:
        """What was decided, by case id.

        Raises:
            CaseError: if the file is none of ours.
        """
        return {case: _review(row) for case, row in self._rows()[1].items()}

    def save(self, case: str, verdict: str, note: str, mask: str, seen: str) -> Review:
        """Replace what was decided on a case, in one step on the disk; columns of others in the file are kept.

        Args:
            case: id.
            verdict: one of `VERDICTS`.
            note: is cut at `LONGEST_NOTE`; control characters other than line breaks are escaped.
            mask: see `Review`.
            seen: the time of the review that the decision was made on top of; blank for none.

        Raises:
            ChangedError: if the file has another one by now.
            CaseError: for another verdict, or a file that is none of ours.
        """
        if verdict not in VERDICTS:
            raise CaseError(
                "there is no such verdict", case=case, expected="accepted, rejected or blank", found=verdict
            )
        lines = note.replace("\r\n", "\n").replace("\r", "\n")[:LONGEST_NOTE].split("\n")
        with self._lock:
            columns, rows = self._rows()
            current = _review(rows.get(case, {}))
            if current.time != seen:
                raise ChangedError(case, current)
            now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
            review = Review(verdict, "\n".join(map(printable, lines)), mask, now)
            rows[case] = rows.get(case, {}) | {"case_id": case} | asdict(review)
            write_table(self._path, columns, rows.values())
        return review

    def _rows(self) -> tuple[list[str], dict[str, dict[str, str]]]:
        """The columns and the rows by case id."""
        own = ["case_id", *(field.name for field in fields(Review))]
        if not self._path.is_file():
            return own, {}
        try:
            text = io.StringIO(self._path.read_bytes().decode("utf-8-sig"), newline="")
            reader = csv.DictReader(text, strict=True)
            rows = list(_cells(reader))
        except (UnicodeDecodeError, csv.Error):
            rows, reader = [], csv.DictReader(io.StringIO())
        columns = [unguarded(name) for name in reader.fieldnames or ()]
        if "case_id" not in columns:
            remedy = "Save it as CSV with commas in UTF-8, or move it away."
            raise CaseError("this is no table of verdicts", file=self._path, expected="a column case_id", remedy=remedy)
        return list(dict.fromkeys([*columns, *own])), {row["case_id"]: row for row in rows}


def _review(row: Mapping[str, str]) -> Review:
    return Review(**{field.name: row.get(field.name, "") for field in fields(Review)})


def _cells(reader: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    for row in reader:
        yield {unguarded(name): unguarded(cell or "") for name, cell in row.items() if name is not None}
