"""What a folder of results says of its cases: rows of ``summary.csv`` and ``metrics.csv`` together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from differseg_med.errors import CaseError
from differseg_med.evaluation.predictions import mask_file
from differseg_med.evaluation.run import METRICS
from differseg_med.paths import safe_part
from differseg_med.prediction.summary import FILE as SUMMARY
from differseg_med.prediction.summary import read_summary

Facts = Mapping[str, str]


def read_results(folder: str | Path) -> dict[str, Facts]:
    """The rows of a run by case id; scores where the case was evaluated.

    Raises:
        CaseError: if it is no folder of results.
    """
    folder = Path(folder)
    tables = [folder / name for name in (SUMMARY, METRICS) if (folder / name).is_file()]
    if not tables:
        raise CaseError(
            "these are no results",
            file=folder,
            expected=f"{SUMMARY} or {METRICS}",
            remedy="Name the folder that was --out of predict or evaluate.",
        )
    found: dict[str, Facts] = {}
    for table in tables:
        for row in read_summary(table):
            texts = {name: str(value) for name, value in row.items() if value}
            if case := texts.get("case_id"):
                found[case] = {**texts, **found.get(case, {})}
    return found


def case_folder(folder: Path, case: str) -> Path:
    """The folder of a case, which may not be there.

    Raises:
        CaseError: if the name is no part of a path, or leads out of the results by a link.
    """
    place = folder / safe_part(case, "case id")
    _stays(folder, place, case)
    return place


def case_file(folder: Path, case: str, name: str) -> Path | None:
    """A file in the folder of a case; None if there is none.

    Raises:
        CaseError: as `case_folder`.
    """
    path = case_folder(folder, case) / name
    _stays(folder, path, case)
    return path if path.is_file() else None


def case_mask(folder: Path, case: str) -> Path | None:
    """The mask of a case; None if it is not there.

    Raises:
        CaseError: as `case_folder`.
    """
    case_folder(folder, case)
    path = mask_file(folder, case)
    _stays(folder, path, case)
    return path if path.is_file() else None


def mask_hash(path: Path | None) -> str:
    """The first 16 digits of the SHA-256 of a mask's file; blank without one."""
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _stays(folder: Path, path: Path, case: str) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        remedy = "Put the files themselves into the results."
        raise CaseError("a link leads out of the folder of the results", case=case, remedy=remedy)
