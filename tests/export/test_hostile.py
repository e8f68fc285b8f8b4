"""Hostile case ids and names of segments through the exports: refused in words or written inside, never elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from support.hostile import GOOD, HOSTILE, TEXTS
from support.segmentations import LESION
from support.series import COLUMNS, ROWS, SLICES, write_series
from support.synthetic import write_case

from differseg_med.errors import CaseError
from differseg_med.export.formats import save_mask
from differseg_med.export.segment import SegmentInfo, read_segment
from differseg_med.prediction.writers import export_mask

EVERY = tuple(dict.fromkeys((*HOSTILE, *TEXTS, *GOOD)))
QUICK = ("nifti", "seg.nrrd", "bids")
SLOW = ("png", "scene", "mrb")  # a title in a picture and in a scene: every twentieth


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return write_case(tmp_path_factory.mktemp("place") / "study" / "case")


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:Glyph")  # fonts have no signs for control characters
def test_case_ids_lead_nowhere(files, tmp_path):
    place = files["t1"].parents[2]
    before = written(place)
    assert len(EVERY) >= 80
    for number, case_id in enumerate(EVERY):
        out = tmp_path / f"{number}"
        formats = (*QUICK, *(() if number % 20 else SLOW))
        problems = export_mask(str(files["label"]), str(files["t1"]), formats, out, SegmentInfo("x"), case_id=case_id)
        assert len(case_id.encode(errors="replace")) > 150 or problems == [], case_id
        for problem in problems:  # of BIDS alone, which needs the id for its names
            assert re.search("name (is )?too long.*a shorter", str(problem), re.IGNORECASE)
        names = written(out)
        assert names >= {"mask.nii.gz", "mask.seg.nrrd", "run.json"}
        assert {name.split("/")[0] for name in names} <= {
            *("mask.nii.gz", "mask.seg.nrrd", "run.json", "derivatives", "overlay.png", "scene", "scene.mrb")
        }
        assert all(name.isascii() and name.isprintable() for name in names)
    assert written(place) == before
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(len(EVERY))}


def test_case_ids_in_dicom(tmp_path):
    """SEG and RTSTRUCT name the patient of the series; a case id goes nowhere in them, and no file elsewhere."""
    series = write_series(tmp_path / "ct")
    mask = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
    mask[1:-1, 1:-1, 1:] = 1
    save_mask(mask, series, tmp_path / "mask.seg.nrrd", segment=SegmentInfo("x"))
    before = written(tmp_path)
    for number, case_id in enumerate(EVERY[::20]):
        out = tmp_path / "out" / f"{number}"
        found = (str(tmp_path / "mask.seg.nrrd"), str(series), ("dicom-sr", "rtstruct"), out, LESION)
        assert export_mask(*found, case_id=case_id) == [], case_id
        files = {name for name in written(out) if name.endswith(".dcm")}
        assert len(files) == 3
        assert all(pydicom.dcmread(out / name).PatientID == "P1" for name in files)
        if len(case_id.strip(". ")) > 3:
            assert not any(case_id.encode(errors="replace") in (out / name).read_bytes() for name in files)
    assert {name for name in written(tmp_path) if not name.startswith("out/")} == before


def test_a_message_about_a_name_that_no_disk_takes(tmp_path, monkeypatch):
    monkeypatch.delenv("DIFFERSEG_VERBOSE_PATHS", raising=False)
    long = tmp_path / ("a" * 300 + ".nii")
    assert str(CaseError("it is too long", file=long)).startswith("file aaa")


@pytest.mark.parametrize("name", [" liver", "liver ", " "])
def test_spaces_at_the_ends_of_a_name(name, tmp_path):
    """Neither DICOM nor NRRD keeps them: a file's are left out, in code they are refused."""
    with pytest.raises(ValueError, match=r"begins or ends with a space|needs a name"):
        SegmentInfo(name)
    file = tmp_path / "segment.json"
    file.write_text(json.dumps({"SegmentLabel": name}))
    if name.strip():
        assert read_segment(file).name == "liver"
    else:
        with pytest.raises(CaseError, match="needs a name"):
            read_segment(file)
