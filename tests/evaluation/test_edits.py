"""A model's masks against the edited ones: volumes and distances by hand, in the formats that people save."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.export.nifti import save_nifti
from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.export.segment import SegmentInfo

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
BOX = np.zeros((12, 12, 8), np.uint8)
BOX[3:7, 3:7, 2:6] = 1
LARGER = BOX.copy()
LARGER[7:9, 3:7, 2:6] = 1  # two columns of 2 mm more on one side
VOXEL_ML = 2 * 2 * 5 / 1000


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = ["case_id,t1"]
    for name in ("a", "b", "c", "d", "e"):
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).random(BOX.shape).astype("f4"), AFFINE), tmp_path / f"{name}.nii"
        )
        lines.append(f"{name},{name}.nii")
        save_nifti(BOX, AFFINE, tmp_path / "model" / name / "mask.nii.gz")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "cohort.csv"


def compare(table: Path, edited: str = "edited") -> tuple[int, dict[str, dict[str, str]]]:
    folder = table.parent
    words = [
        "compare",
        str(folder / "model"),
        str(folder / edited),
        "--cohort",
        str(table),
        "--out",
        str(folder / "out"),
    ]
    code = CliRunner().invoke(app, words).exit_code
    found = folder / "out" / "edits.csv"
    with found.open(newline="") as file:
        return code, {row["case_id"]: row for row in csv.DictReader(file)}


def test_volumes_and_distances_of_each_case(table: Path):
    folder = table.parent / "edited"
    save_seg_nrrd(LARGER, AFFINE, folder / "a" / "Segmentation.seg.nrrd", SegmentInfo("GTV"))
    save_nifti(BOX, AFFINE, folder / "b.nii.gz")
    save_nifti(np.zeros_like(BOX), AFFINE, folder / "c" / "mask.nii.gz")
    code, rows = compare(table)
    assert code == 0
    assert list(rows) == ["a", "b", "c"]  # the others were not edited
    a = {name: float(rows["a"][name]) for name in ("model_ml", "edited_ml", "change_ml", "change_percent", "hd_mm")}
    assert a == pytest.approx(
        {
            "model_ml": 64 * VOXEL_ML,
            "edited_ml": 96 * VOXEL_ML,
            "change_ml": 32 * VOXEL_ML,
            "change_percent": 50,
            "hd_mm": 4,
        }
    )
    assert 0 < float(rows["a"]["assd_mm"]) < 4
    assert [float(rows["b"][name]) for name in ("change_ml", "assd_mm", "dice")] == [0, 0, 1]
    assert [float(rows["c"][name]) for name in ("edited_ml", "change_percent", "dice")] == [0, -100, 0]
    page = (table.parent / "out" / "edits.html").read_text()
    assert "3 edited masks, 1 of them as the model drew them; 2 cases were not edited." in page
    assert page.count("data:image/png") == 2  # what changed


def test_what_cannot_be_compared_is_said(table: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    folder = table.parent / "edited"
    moved = AFFINE.copy()
    moved[:3, 3] = 1000
    save_nifti(LARGER, AFFINE, folder / "a.nii.gz")
    save_nifti(LARGER, moved, folder / "b.nii.gz")
    save_nifti(LARGER, AFFINE, folder / "d.nii.gz")
    save_nifti(LARGER, AFFINE, folder / "d.nii")
    (table.parent / "model" / "e" / "mask.nii.gz").unlink()
    save_nifti(LARGER, AFFINE, folder / "e.nii.gz")
    code, rows = compare(table)
    assert code == 1
    assert {name: row["status"] for name, row in rows.items()} == dict(
        zip("abde", ["done", "failed", "failed", "failed"])
    )
    assert "several files could be its mask" in rows["d"]["reason"]
    assert "the first folder has no mask of it" in rows["e"]["reason"]


def test_options_that_do_not_fit(table: Path, caplog: pytest.LogCaptureFixture):
    run = CliRunner().invoke
    assert run(app, ["compare", "a", "--cohort", str(table)]).exit_code == 2
    assert run(app, ["compare", "a", "b", "--against-first", "--cohort", str(table)]).exit_code == 2
    assert run(app, ["compare", "a", "b", "--cohort", str(table), "--out", str(table.parent / "out")]).exit_code == 1
    assert "there is no folder with masks here" in caplog.text
