"""Cells of the cohort table: ``PATH`` or ``PATH::SELECTOR``."""

from __future__ import annotations

from pathlib import Path

SEPARATOR = "::"

RESAMPLE = "+resample"
"""End of a selector: a tilted or unevenly spaced series is to be interpolated to a regular grid."""


def split_cell(cell: str | Path) -> tuple[Path, str]:
    """Path and selector (empty for none) of a cell. A file whose own name has ``::`` in it is taken as it is."""
    text = str(cell)
    if SEPARATOR not in text or Path(text).exists():
        return Path(text), ""
    path, _, selector = text.partition(SEPARATOR)
    return Path(path), selector.strip()


def join_cell(path: str | Path, selector: str = "") -> str:
    """The cell for a path and a selector."""
    return f"{path}{SEPARATOR}{selector}" if selector else str(path)
