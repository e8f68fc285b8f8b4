"""What people write into the cells of a cohort table, and what they mean by it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from differseg_med.case import meant_split
from differseg_med.errors import CaseError
from differseg_med.paths import same_name, unsafe
from differseg_med.runs.names import EARLIER, SHARDS

logger = logging.getLogger(__name__)

ABSENT = ("na", "n/a", "#n/a", "#na", "nan", "null", "none", "nil", "-", "--")
"""What programs and people write into a cell that holds nothing, whatever the capitals."""

MAX_ID_BYTES = 120
"""Longest id: BIDS names and temporary files add up to 100 bytes, and disks take 255."""

_RESERVED = ("overlays", "derivatives", "cache", EARLIER, SHARDS)
"""Folders of results that lie beside those of the cases."""


def same_id(text: str) -> str:
    """What two ids have in common that spreadsheets and disks take for one: ``P1`` and ``p1``, ``7`` and ``7.0``."""
    plain = same_name(text).rstrip(". ") or text
    return re.sub(r"^(\d+)\.0+$", r"\1", plain)


def same_subject(text: str) -> str:
    """As `same_id`, and without the zeros in front that spreadsheets drop: ``007`` and ``7``."""
    plain = same_id(text)
    return plain.lstrip("0") or "0" if plain.isdecimal() else plain


def id_problem(path: Path, case_id: str) -> CaseError | None:
    """Why an id cannot name the folder of a case; None if it can. Results of the whole cohort lie beside them."""
    size = len(case_id.encode())
    found = None
    if size > MAX_ID_BYTES:
        found = f"{size} bytes where {MAX_ID_BYTES} are the most"
    elif case_id.casefold() in _RESERVED or case_id.casefold().endswith((".csv", ".json", ".html")):
        found = "the name of a result of the whole cohort"
    elif case_id[0] in "-~" or "\ufffd" in case_id or unsafe(case_id):
        found = ascii(case_id)
    if found is None:
        return None
    remedy = f"Use letters, digits, - and _, at most {MAX_ID_BYTES}."
    name = f"{case_id[:20]}..." if size > MAX_ID_BYTES else case_id if case_id.isprintable() else ascii(case_id)
    return CaseError("the case id cannot be a folder name", case=name, file=path, found=found, remedy=remedy)


class Cells:
    """Reads the cells of a table's rows, and remembers what was read otherwise than it is written.

    Args:
        folder: of the table; paths are relative to it.
        modalities: columns of images.
    """

    def __init__(self, folder: Path, modalities: Sequence[str]) -> None:
        self.folder, self.paths = folder, (*modalities, "label")
        self.read_as: Counter[str] = Counter()

    def meant(self, cells: Mapping[str, str]) -> dict[str, str]:
        """The cells as they are meant."""
        own = dict(cells)
        for name in self.paths:
            if own.get(name):
                own[name] = self._path(own[name])
        for name in ("subject_id", "split", "fold"):
            if own.get(name, "").casefold() in ABSENT:
                own[name] = self._instead(own[name], "")
        split = own.get("split", "")
        if split != meant_split(split):
            own["split"] = self._instead(split, meant_split(split))
        return own

    def _path(self, cell: str) -> str:
        if cell.casefold() in ABSENT and not (self.folder / cell).exists():
            return self._instead(cell, "")
        if "\\" in cell and not (self.folder / cell.split("::")[0]).exists():
            path, colons, selector = cell.partition("::")
            self.read_as["paths with \\ as with /"] += 1
            return path.replace("\\", "/") + colons + selector
        return cell

    def _instead(self, written: str, meant: str) -> str:
        self.read_as[f"{written!r} as {meant!r}" if meant else f"{written!r} as blank"] += 1
        return meant

    def tell(self, path: Path) -> None:
        """Log one notice of all that was read otherwise, once in a process for the same table and the same notice."""
        if self.read_as:
            what = ", ".join(
                f"{text} ({count} {'entry' if count == 1 else 'entries'})" for text, count in self.read_as.items()
            )
            _tell_once(str(path), what)


@lru_cache(maxsize=1024)
def _tell_once(table: str, what: str) -> None:
    logger.warning("%s: read %s", Path(table).name, what)
