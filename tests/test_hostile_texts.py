"""Hostile descriptions, patients, and regions through a scan: none runs or is written elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from support.hostile import HOSTILE, PATHS, TEXTS
from support.scanning import series, structures
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.errors import printable
from differseg_med.tables import unguarded

EVERY = tuple(dict.fromkeys((*HOSTILE, *PATHS, *TEXTS)))
IN_DICOM = tuple(text for text in EVERY if text.isascii() and "\0" not in text and 0 < len(text.strip()) <= 64)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_hundred_different_ones_are_tried():
    assert len(EVERY) >= 100
    assert len(IN_DICOM) >= 60


def test_a_scan_takes_texts_as_texts(tmp_path):
    pixels = np.zeros((2, 4, 4), np.int16)
    for number, text in enumerate(IN_DICOM):
        series(tmp_path / "in" / f"{number}", text, patient=text, study=f"S{number}", pixels=pixels)
    structures(tmp_path / "in" / "regions.dcm", *IN_DICOM, patient="P", study="S0")
    before, out = tree(tmp_path), tmp_path / "out" / "cohort.csv"
    done = CliRunner().invoke(app, ["cohort", "scan", str(tmp_path / "in"), "--out", str(out)])
    assert isinstance(done.exception, SystemExit | None)
    assert [line for line in done.output.splitlines() if printable(line) != line] == []
    assert {name.split("/")[0] for name in tree(tmp_path) - before} == {"out"}
    assert not [name for name in tree(out.parent) if "/" in name]
    with (out.parent / "audit.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) > len(IN_DICOM)
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "@", "\t") and unguarded(cell) == cell]
    page = (out.parent / "audit.html").read_text(encoding="utf-8").lower()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "&lt;img src=x" in page
