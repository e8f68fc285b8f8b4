"""CSV files: one way to write them, so that no cell becomes a formula in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from differseg_med.atomic import write_text

FORMULA = re.compile(r"[=+\-@\t\r]")
"""How a cell begins that spreadsheets calculate: ``=cmd|...``, ``+1+1``, ``@SUM``."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def guarded(cell: Any) -> Any:
    """The cell, with an apostrophe in front if a spreadsheet would calculate it; numbers stay as they are."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def unguarded(cell: str) -> str:
    """The cell without the apostrophe that `guarded` put in front."""
    return cell[1:] if cell.startswith("'") and guarded(cell[1:]) == cell else cell


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file in one step; a column that a row has not is blank, others are left out."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([guarded(name) for name in columns])
    writer.writerows([guarded(row.get(name, "")) for name in columns] for row in rows)
    write_text(path, text.getvalue())


def write_frame(path: str | Path, frame: Any) -> None:
    """Write a data frame of pandas as `write_table` does, numbers with ten digits."""
    safe = frame.rename(columns=guarded)
    for place, kind in enumerate(safe.dtypes):
        if getattr(kind, "kind", "O") not in "iufb":
            safe.isetitem(place, safe.iloc[:, place].map(guarded))
    write_text(path, safe.to_csv(index=False, float_format="%.10g"))
