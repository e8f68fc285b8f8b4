"""What a folder's manifest and tables say, in lines for a terminal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from differseg_med.errors import CaseError
from differseg_med.runs.lock import holder
from differseg_med.runs.manifest import PROGRAM, RUNNING, Step, read_steps
from differseg_med.runs.names import EARLIER, MANIFEST
from differseg_med.runs.shards import shards_in

MAX_SETTINGS = 40
"""Longest value that is shown."""


def status_lines(folder: str | Path, *, settings: bool = False) -> list[str]:
    """What made the results of a folder, and how far it is.

    Args:
        folder: output folder of a run.
        settings: also each setting.

    Raises:
        CaseError: if nothing says what the folder is.
    """
    folder = Path(folder)
    steps, shards = read_steps(folder), shards_in(folder)
    if not steps and not shards:
        remedy = "Runs of predict, evaluate, train and others leave it in their --out."
        raise CaseError(f"there is no {MANIFEST} of {PROGRAM} here", file=folder, remedy=remedy)
    owner = holder(folder)
    lines = [f"being written by process {owner['pid']} on {owner['host']}"] if owner else []
    for name, step in steps.items():
        lines += _step(name, step, owner is not None)
        if settings:
            lines += [f"  {key}: {value[:MAX_SETTINGS]}" for key, value in step.settings.items()]
    for shard, place in shards.items():
        part = status_lines(place) if read_steps(place) else ["not begun"]
        lines += [f"shard {shard}: {line}" for line in part if not line.startswith(" ")]
    lines += [f"{path.name}: {count}" for path in sorted(folder.glob("*.csv")) if (count := _count(path))]
    earlier = sorted(path.name for path in (folder / EARLIER).glob("*") if path.is_dir())
    return lines + ([f"{EARLIER}: {', '.join(earlier)}"] if earlier else [])


def _step(name: str, step: Step, running: bool) -> Iterator[str]:
    state = "was killed" if step.state == RUNNING and not running else step.state
    yield f"{name}: {state}, started {step.started}" + (f", ended {step.ended}" if step.ended else "")
    software = ", ".join(f"{key} {value}" for key, value in step.software.items())
    yield f"  {len(step.inputs)} cases; {software}"
    if step.command:
        yield f"  {step.command}"


def _count(path: Path) -> str:
    """What a table of results holds: rows by status, or rows."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return ""
    statuses = Counter(row["status"] for row in rows if row.get("status"))
    return ", ".join(f"{count} {status}" for status, count in statuses.items()) or f"{len(rows)} rows"
