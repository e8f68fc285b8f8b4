"""Predictions as other programs and people leave them in a folder: the same scores as from our own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from support.making import ras, rtstruct
from support.series import write_series

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_cohort
from differseg_med.evaluation.predictions import Predictions
from differseg_med.export.bids import save_bids
from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.nifti import save_nifti
from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.export.segment import SegmentInfo, read_segment
from differseg_med.export.source import read_source
from differseg_med.io.dicom.reader import read_grid
from differseg_med.metrics.case import Settings
from differseg_med.reports import figures

BUNDLE = Path(__file__).parents[2] / "bundles" / "sts_petctmr_segmentation"
CASE = "P_01"


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """A DICOM series, a label on it, and a mask that differs from it."""
    folder = tmp_path_factory.mktemp("patient")
    series = write_series(folder / "ct")
    grid = read_grid(series)
    label = np.zeros(grid.shape, np.uint8)
    label[1:4, 1:6, 1:4] = 1
    save_nifti(label, grid.affine, folder / "label.nii.gz")
    return Case(CASE, CASE, {"ct": series}, folder / "label.nii.gz"), np.roll(label, 1, 0), grid


def dice(case: Case, folder: Path, out: Path, selector: str = "") -> float:
    found = evaluate_cohort([case], f"{folder}{selector}", out, worst=0)
    assert found.rows[0]["status"] == "done", found.rows[0]
    return found.rows[0]["dice"]


def frame_of(case: Case) -> str:
    return str(pydicom.dcmread(next(case.images["ct"].iterdir())).FrameOfReferenceUID)


def nifti(mask, grid, case, path):
    save_nifti(mask, grid.affine, path)


def slicer(mask, grid, case, path):
    save_seg_nrrd(mask, grid.affine, path, SegmentInfo("tumour"))


def dicom(mask, grid, case, path):
    save_dicom_seg(mask, grid.affine, read_source(case.images["ct"]), path, read_segment(BUNDLE))


def bids(mask, grid, case, path):
    save_bids(mask, grid.affine, path, Path("t1.nii.gz"), CASE, SegmentInfo("tumour"))


def bids_of_another_program(mask, grid, case, path):
    save_nifti(mask, grid.affine, path / "sub-P01" / "anat" / "sub-P01_space-T1w_label-GTV_mask.nii.gz")


WAYS = {
    "P_01.nii.gz": nifti,
    "P_01.seg.nrrd": slicer,
    "P_01/Segmentation.seg.nrrd": slicer,
    "P_01/prediction.nii": nifti,
    "P_01/seg.dcm": dicom,
    "": bids,
    "derivatives": bids_of_another_program,
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_gives_the_same_scores(patient, tmp_path, name, monkeypatch):
    for figure in ("distributions", "bland_altman"):
        monkeypatch.setattr(figures, figure, lambda *_: b"")
    case, mask, grid = patient
    folder = tmp_path / "predictions"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    WAYS[name](mask, grid, case, folder / name)
    assert dice(case, folder, tmp_path / "out") == pytest.approx(2 / 3)


def test_contours_and_one_of_several_segments(patient, tmp_path, monkeypatch):
    for figure in ("distributions", "bland_altman"):
        monkeypatch.setattr(figures, figure, lambda *_: b"")
    case, mask, grid = patient
    corners = np.array([[1.5, 0.5], [4.5, 0.5], [4.5, 5.5], [1.5, 5.5]])
    drawn = [ras(grid.world(np.column_stack([corners, np.full(4, k)]))) for k in range(1, 4)]
    assert mask[2:5, 1:6, 1:4].all()
    contours = rtstruct({"GTV": drawn, "other": drawn[:1]}, frame=frame_of(case))
    (tmp_path / "in" / CASE).mkdir(parents=True)
    contours.save_as(tmp_path / "in" / CASE / "RS.dcm", enforce_file_format=True)
    assert dice(case, tmp_path / "in", tmp_path / "out", "::GTV") == pytest.approx(2 / 3)


def test_our_own_mask_comes_first_and_several_others_are_refused(patient, tmp_path):
    case, mask, grid = patient
    folder = tmp_path / CASE
    for name in ("a.seg.nrrd", "b.seg.nrrd"):
        slicer(mask, grid, case, folder / name)
    with pytest.raises(CaseError, match=r"several files could be the prediction .*found a\.seg\.nrrd, b\.seg\.nrrd"):
        Predictions(tmp_path).find(CASE)
    found = evaluate_cohort([case, replace(case, case_id="x")], tmp_path, tmp_path / "out", worst=0)
    assert "several files" in found.rows[0]["reason"]
    nifti(mask, grid, case, folder / "mask.nii.gz")
    assert Predictions(tmp_path).find(CASE) == folder / "mask.nii.gz"
    assert Predictions(tmp_path).find("y") == tmp_path / "y" / "mask.nii.gz"


def test_pooled_hd95_is_a_column_if_it_is_asked_for(patient, tmp_path):
    case, mask, grid = patient
    save_nifti(mask, grid.affine, tmp_path / "masks" / f"{CASE}.nii.gz")
    found = evaluate_cohort([case], tmp_path / "masks", tmp_path / "out", settings=Settings(hd95_pooled=True), worst=0)
    table = (tmp_path / "out" / "metrics.csv").read_text().splitlines()[0]
    assert "hd95_pooled_mm" in table.split(",")
    assert found.summary["metrics"]["hd95_pooled_mm"]["mean"] == found.rows[0]["hd95_pooled_mm"] > 0
    assert "HD95 pooled" in (tmp_path / "out" / "evaluation.html").read_text()
