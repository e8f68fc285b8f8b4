"""Outputs that are sent onto data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from support.synthetic import read_rows, write_table

from differseg_med.cli import app
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from torture import Trial
from torture.common import cohort, evaluator, hashes


def trials(folder: Path, seed: int) -> list[Trial]:
    """Predictions onto labels by every way to name a folder, then each other command."""
    made: list[Trial] = []
    for title, name in PLACES.items():
        for evaluate in (False, True):
            made.append((f"predict, {title}, evaluate={evaluate}", partial(_predict, name, evaluate)))
    return made + [(title, partial(_command, make)) for title, make in COMMANDS.items()]


def _data(place: Path) -> Path:
    """A cohort whose labels are called as our masks are."""
    data = place / "data"
    table = cohort(data, split="")
    rows = list(read_rows(table).values())
    for row in rows:
        (data / row["label"]).rename(data / row["case_id"] / "mask.nii.gz")
        row["label"] = f"{row['case_id']}/mask.nii.gz"
    write_table(table, rows)
    shutil.copy(data / "a" / "mask.nii.gz", data / "second_reader.nii.gz")
    return table


def _same(place: Path) -> Path:
    return place / "data"


def _link(place: Path) -> Path:
    (place / "link").symlink_to(place / "data")
    return place / "link"


def _dotted(place: Path) -> Path:
    return place / "data" / "a" / ".."


def _relative(place: Path) -> Path:
    return Path(os.path.relpath(place / "data"))


def _linked_case(place: Path) -> Path:
    """A folder whose case is a link into the data."""
    (place / "out").mkdir()
    (place / "out" / "a").symlink_to(place / "data" / "a")
    return place / "out"


def _linked_mask(place: Path) -> Path:
    """A folder in which a mask is a link to the label."""
    (place / "out" / "a").mkdir(parents=True)
    (place / "out" / "a" / "mask.nii.gz").symlink_to(place / "data" / "a" / "mask.nii.gz")
    return place / "out"


def _hard_linked_mask(place: Path) -> Path:
    (place / "out" / "a").mkdir(parents=True)
    os.link(place / "data" / "a" / "mask.nii.gz", place / "out" / "a" / "mask.nii.gz")
    return place / "out"


PLACES: dict[str, Callable[[Path], Path]] = {
    "the folder of the data": _same,
    "a link to it": _link,
    "with dots": _dotted,
    "relative": _relative,
    "a case that is a link": _linked_case,
    "a mask that is a link": _linked_mask,
    "a mask that is a hard link": _hard_linked_mask,
}


def _predict(name: Callable[[Path], Path], evaluate: bool, place: Path) -> str:
    table = _data(place)
    before = hashes(place / "data")
    for resume in (False, True):
        with suppress(CaseError, SystemExit):
            evaluator(table, name(place) if not resume else _same(place), evaluate=evaluate, resume=resume).run()
    return _lost(before, hashes(place / "data"))


def _lost(before: dict[str, str], after: dict[str, str]) -> str:
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    return f"changed {changed}" if changed else ""


def _command(make: Callable[[Path], list[str]], place: Path) -> str:
    table = _data(place)
    arguments = [part.replace("DATA", str(table.parent)).replace("TABLE", str(table)) for part in make(place)]
    before = hashes(place / "data")
    with suppress(CaseError, SystemExit):
        app(arguments, standalone_mode=False)
    return _lost(before, hashes(place / "data"))


def _line(text: str) -> Callable[[Path], list[str]]:
    def make(place: Path) -> list[str]:
        return text.split()

    return make


def _named(columns: dict[str, str], text: str) -> Callable[[Path], list[str]]:
    """The command with data that are called as its results are."""

    def make(place: Path) -> list[str]:
        table = place / "data" / "cohort.csv"
        rows: list[dict[str, Any]] = list(read_rows(table).values())
        for column, name in columns.items():
            target = place / "data" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (place / "data" / rows[0][column]).rename(target)
            rows[0][column] = name
        write_table(table, rows)
        assert not any(case.problem for case in read_cohort(table, ("t1", "ct", "pet")).cases)
        return text.split()

    return make


EXPORT = "export DATA/a/mask.nii.gz --reference DATA/a/t1.nii.gz"
COMMANDS = {
    "evaluate, into the data": _line("evaluate --predictions DATA --cohort TABLE --out DATA"),
    "evaluate, the labels": _line("evaluate --predictions DATA --cohort TABLE --out DATA/../out"),
    "evaluate, label called as an overlay": _named(
        {"label": "overlays/a.png"}, "evaluate --predictions DATA --cohort TABLE --out DATA"
    ),
    "export onto the mask": _line(f"{EXPORT} --formats nifti --out DATA/a"),
    "export all onto it": _line(f"{EXPORT} --formats nifti,seg.nrrd,png,scene,bids --out DATA/a"),
    "export onto the reference": _line(
        "export DATA/second_reader.nii.gz --reference DATA/a/mask.nii.gz --formats nifti --out DATA/a"
    ),
    "n4 into the data": _line("cohort n4 TABLE --out DATA --modalities t1"),
    "n4 into a case": _line("cohort n4 TABLE --out DATA/a --modalities t1"),
    "register into the data": _line("cohort register TABLE --out DATA --modalities ct"),
    "scan onto an image": _line("cohort scan DATA --out DATA/a/t1.nii.gz"),
    "scan onto the table": _line("cohort scan DATA --out TABLE"),
    "scan, forced, onto a label": _line("cohort scan DATA --out DATA/a/mask.nii.gz --force"),
    "folds onto an image": _line("cohort folds TABLE --k 2 --out DATA/a/t1.nii.gz"),
    "folds, forced, onto a label": _line("cohort folds TABLE --k 2 --out DATA/a/mask.nii.gz --force"),
    "folds onto another table": _named({"pet": "other.csv.nii.gz"}, "cohort folds TABLE --k 2 --out DATA/b/ct.nii.gz"),
    "check into the data": _line("cohort check TABLE --out DATA --no-alignment"),
    "msd onto the table": _line("cohort export msd TABLE --out TABLE"),
    "msd onto a label": _line("cohort export msd TABLE --out DATA/a/mask.nii.gz"),
    "msd, 4-D, onto its images": _named(
        {"t1": "imagesTr/a.nii.gz"}, "cohort export msd TABLE --out DATA/dataset.json --layout 4d"
    ),
    "msd, 4-D, onto its labels": _named(
        {"label": "labelsTr/a.nii.gz"}, "cohort export msd TABLE --out DATA/dataset.json --layout 4d"
    ),
    "nnunet onto its images": _named({"t1": "imagesTr/a_0000.nii.gz"}, "cohort export nnunet TABLE --out DATA"),
    "nnunet, third channel": _named({"ct": "imagesTr/a_0002.nii.gz"}, "cohort export nnunet TABLE --out DATA"),
    "nnunet onto its labels": _named({"label": "labelsTr/a.nii.gz"}, "cohort export nnunet TABLE --out DATA"),
    "import folders onto a label": _line(
        "cohort import folders --root DATA --modalities a --out DATA/a/mask.nii.gz --force"
    ),
    "import onto the table": _line("cohort import pattern DATA --image t1={case}/t1.nii.gz --out TABLE"),
    "compare onto a table": _line("compare TABLE TABLE --out DATA"),
}
