"""A case and a cohort: what a row of the table says, and a job done for one case."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from differseg_med.errors import DISK, CaseError, os_problem, private, without_folders
from differseg_med.keys import REFERENCE_IMAGES

logger = logging.getLogger(__name__)


OWN_COLUMNS = ("case_id", "subject_id", "label", "split", "fold")

_SPLITS = {
    "train": ("train", "training", "tr", "trn"),
    "validation": ("validation", "val", "valid", "validate", "dev"),
    "test": ("test", "testing", "ts"),
}
"""Splits, and how else people write them, whatever the capitals."""


def meant_split(text: str) -> str:
    """The split that is meant: ``train`` of ``Training``; a name of the user's own stays as it is."""
    return next((split for split, ways in _SPLITS.items() if text.casefold() in ways), text)


@dataclass(frozen=True)
class Case:
    """One row of the cohort table; `images` holds the present modalities only, in declared order.

    Paths carry the selector of their cell in their text. `reference_images` are the images as they stand in the table,
    also those that are `withheld`: contours of a label find their grid among them. `case_id` is always a name that a
    folder can have; `written_id` is what the table says where that is none.
    """

    case_id: str
    subject_id: str
    images: dict[str, Path]
    label: Path | None = None
    split: str = ""
    fold: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    problem: CaseError | None = None
    reference_images: tuple[Path, ...] = ()
    written_id: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()

    @property
    def modalities(self) -> str:
        """The present modalities as tables and reports name them: ``t1+ct``, or ``none``."""
        return "+".join(self.images) or "none"

    @property
    def files(self) -> dict[str, Path | None]:
        """Its cells that name files, by column; where two columns have one file, it is that of the first."""
        return {"label": self.label, **dict(reversed(self.images.items()))}

    def as_item(self) -> dict[str, object]:
        """The dictionary that transforms start from: ``case_id``, one key per present modality, ``label`` if any."""
        item: dict[str, object] = {"case_id": self.case_id, **{m: str(p) for m, p in self.images.items()}}
        if self.label is not None:
            item["label"] = str(self.label)
            if self.reference_images and self.reference_images != tuple(self.images.values()):
                item[REFERENCE_IMAGES] = [str(p) for p in self.reference_images]
        return item


@dataclass(frozen=True)
class Cohort:
    """A checked cohort table; rows with a problem are kept and carry it, also one that concerns all (`problem`).

    `kinds` are those of `differseg_med.modality` by modality, as far as the table's own file of kinds tells them.
    """

    path: Path
    modalities: tuple[str, ...]
    cases: tuple[Case, ...]
    problem: CaseError | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    def select(self, split: str | Sequence[str] | None = None) -> tuple[Case, ...]:
        """Cases of one or several splits; None for all.

        Raises:
            CaseError: if no case is left.
        """
        wanted = None if split is None else {meant_split(s) for s in ([split] if isinstance(split, str) else split)}
        chosen = tuple(c for c in self.cases if wanted is None or c.split in wanted)
        if not chosen and self.problem is not None:
            raise self.problem  # a misspelt column split: no row has a split
        if not chosen:
            found = sorted({c.split for c in self.cases})
            expected = f"rows with split {' or '.join(sorted(wanted or []))}" if wanted else "rows"
            raise CaseError(
                "no case to work on",
                file=self.path,
                expected=expected,
                found=" and ".join(value or "blank cells" for value in found) or "none",
                remedy=f"Write {min(wanted)} into the column split of the rows that are meant." if wanted else None,
            )
        return chosen

    def withhold(self, modalities: Iterable[str]) -> Cohort:
        """The same cohort as if ``modalities`` had never been acquired."""
        withheld = set(modalities)
        unknown = sorted(withheld - set(self.modalities))
        if unknown:
            raise CaseError(f"cannot withhold {unknown}", expected=f"some of {list(self.modalities)}")
        cases = tuple(
            replace(
                c,
                images={m: p for m, p in c.images.items() if m not in withheld},
                withheld=(*c.withheld, *(m for m in c.images if m in withheld)),
            )
            for c in self.cases
        )
        return replace(self, cases=cases)


def run_for_case(function: Callable[[Any], Any], argument: object, case: Case) -> Any:
    """Call ``function(argument)`` and turn whatever goes wrong into a `CaseError` that names the case.

    Raises:
        CaseError: the one that a transform raised (MONAI wraps it), or one that quotes an unforeseen error.
    """
    try:
        return function(argument)
    except Exception as error:  # the next case must go on whatever happened to this one
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        if known := next((cause for cause in causes if isinstance(cause, CaseError)), None):
            raise known.for_case(case.case_id, case.files) from error
        if disk := next((c for c in causes if isinstance(c, OSError) and c.errno in DISK), None):
            raise os_problem(disk).for_case(case.case_id, case.files) from error
        logger.debug("unforeseen error in case %s", case.case_id, exc_info=True)
        text = str(error).split("\n")[0]
        for column, path in case.files.items():
            text = text if path is None else text.replace(str(path), private(path.name, column))
        raise CaseError(
            "an unforeseen problem; please report it with the log",
            case=case.case_id,
            found=f"{type(error).__name__}: {without_folders(text)}",
        ) from error
