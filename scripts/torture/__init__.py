"""Trials of `scripts/torture_runs.py`; each takes a folder and returns what went wrong, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Trial = tuple[str, Callable[[Path], str]]


def trials(part: str, folder: Path, seed: int) -> list[Trial]:
    """The trials of a part."""
    from torture import changes, faults, kills, onto

    made = {"kills": kills.trials, "changes": changes.trials, "onto": onto.trials, "faults": faults.trials}
    return made[part](folder, seed)
