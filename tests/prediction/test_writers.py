"""Formats of a run and of a mask that is already there: all that can be written is, the rest is reported."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import slicerio
import torch
from support.series import COLUMNS, ROWS, SLICES, TURNED, positions, positions_in_seg, write_series
from support.synthetic import (
    BUNDLE,
    OBLIQUE,
    ThresholdCenter,
    Volume,
    affine_of,
    read_rows,
    row_of,
    write_case,
    write_nifti,
    write_table,
)
from typer.testing import CliRunner

from differseg_med.bundles.factories import (
    CohortEvaluator,
    SliceWindowInferer,
    case_loader,
    cohort_dataset,
    format_writers,
    postprocessing,
    preprocessing,
)
from differseg_med.bundles.workflows import BundleRun
from differseg_med.cli import app
from differseg_med.errors import CaseError
from differseg_med.io.dicom.reader import read_grid

MASK = (np.random.default_rng(0).random((COLUMNS, ROWS, SLICES)) > 0.6).astype(np.uint8)
STS = Path(__file__).parents[3] / "shared" / "data" / "sts_dicom" / "STS_041"
CODES = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["segment"]


def run(folder: Path, table: Path, modalities, formats) -> dict[str, dict[str, str]]:
    """Segment a table with a network whose mask is known; returns the rows of the summary."""
    reference = next(iter(modalities))
    evaluator = CohortEvaluator(
        device=torch.device("cpu"),
        val_data_loader=case_loader(cohort_dataset(table, modalities, preprocessing(modalities, reference, None))),
        network=ThresholdCenter(0, 0.7, 1),
        inferer=SliceWindowInferer((24, 24), num_slices=1),
        postprocessing=postprocessing(),
        output_dir=folder / "out",
        reference=reference,
        writers=format_writers(formats, BUNDLE),
    )
    evaluator.run()
    return read_rows(folder / "out" / "summary.csv")


def test_a_run_writes_every_format_and_loses_no_mask_where_one_is_impossible(tmp_path, caplog):
    """One case from NIfTI, for which no DICOM SEG can be drawn, and one from DICOM."""
    nifti = write_case(tmp_path / "in", "LPS", OBLIQUE)["t1"]
    bright = (np.indices((COLUMNS, ROWS, SLICES)).sum(axis=0) > 9).T  # slices, rows, columns
    dicom = write_series(tmp_path / "ct", TURNED, pixels=np.where(bright, 2000, 1000))
    rows = [row_of("a", {"t1": nifti}, tmp_path / "c.csv"), row_of("b", {"t1": dicom}, tmp_path / "c.csv")]
    table = write_table(tmp_path / "c.csv", rows, ("case_id", "t1", "ct"))
    formats = ["nifti", "seg.nrrd", "dicom-seg", "png", "probability", "scene", "mrb", "bids"]
    summary = run(tmp_path, table, {"t1": {"kind": "mr", "percentile": 99}, "ct": {"kind": "ct"}}, formats)
    assert (summary["a"]["status"], summary["a"]["reason"]) == ("done", "")
    assert summary["a"]["dicom-seg"] == "not written: t1 is no DICOM"
    assert "dicom-seg: t1 is no DICOM, so this is not written for a" in caplog.text
    assert summary["b"]["status"] == "done", summary["b"]["reason"]
    out = tmp_path / "out"
    for case in "ab":
        image = nib.load(out / case / "mask.nii.gz")
        expected = positions(np.asarray(image.dataobj), image.affine)
        assert len(expected) > 50
        read = slicerio.read_segmentation(str(out / case / "mask.seg.nrrd"))
        found = positions(read["voxels"], np.diag([-1, -1, 1, 1]) @ read["ijkToLPS"])
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert read["segments"][0]["name"] == CODES["SegmentLabel"]
        for name in (
            "overlay.png",
            "probability.nrrd",
            "scene.mrb",
            "scene/t1.nrrd",
            "scene/mask.seg.nrrd",
            "scene/scene.mrml",
        ):
            assert (out / case / name).is_file(), name
        name = f"sub-{case}_space-orig_label-GrossTumourVolume_desc-differseg_mask.nii.gz"
        assert (out / "derivatives" / f"sub-{case}" / "anat" / name).is_file()
    np.testing.assert_allclose(positions_in_seg(out / "b" / "mask.dcm"), expected, atol=2e-3)
    assert not (out / "a" / "mask.dcm").exists()
    assert sitk.ReadImage(str(out / "b" / "probability.nrrd")).GetMetaData("threshold") == "0.5"
    assert summary["b"]["probability"] == "probability.nrrd; the mask is where it is above 0.5"
    (segment,) = pydicom.dcmread(out / "b" / "mask.dcm").SegmentSequence
    assert segment.SegmentDescription == "made from t1 without ct"
    sidecar = json.loads((out / "derivatives" / "sub-b" / "anat" / name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["Description"].endswith("made from t1 without ct")
    assert summary["b"]["seg.nrrd"] == "mask.seg.nrrd"
    odd = "FRACTIONAL with 0 and 1, as viewers on cornerstone misread single bits of these frames"
    assert summary["b"]["dicom-seg"] == f"mask.dcm; {odd}"


@pytest.mark.parametrize(("formats", "words"), [(["stl"], "unknown formats"), (["seg.nrrd", "x"], "unknown formats")])
def test_unknown_formats_stop_before_the_work(formats, words):
    with pytest.raises(CaseError, match=words):
        format_writers(formats, BUNDLE)


def test_a_bundle_that_knows_no_formats_is_not_silently_run_without(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text("cohort: x\noutput_dir: y\n")
    with pytest.raises(CaseError, match="no entry 'formats'"):
        BundleRun(tmp_path, ["inference"], "c.csv", tmp_path, {"formats": ["seg.nrrd"]}).open()


def export(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def dicom(tmp_path):
    """A DICOM series, and a mask of it as NIfTI stored along other axes."""
    folder = write_series(tmp_path / "ct", TURNED)
    grid = read_grid(folder)
    flipped = grid.affine @ np.array([[-1.0, 0, 0, COLUMNS - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    mask = write_nifti(tmp_path / "mask.nii.gz", Volume(MASK[::-1], flipped), np.uint8)
    return folder, mask, positions(MASK, grid.affine)


def test_the_command_for_dicom(dicom, tmp_path):
    folder, mask, expected = dicom
    out = tmp_path / "out"
    formats = "nifti,seg.nrrd,dicom-seg"
    code, text = export(mask, "--reference", folder, "--bundle", BUNDLE, "--formats", formats, "--out", out)
    assert code == 0, text
    assert {path.name for path in out.iterdir()} == {"mask.nii.gz", "mask.seg.nrrd", "mask.dcm", "run.json"}
    np.testing.assert_allclose(positions_in_seg(out / "mask.dcm"), expected, atol=2e-3)
    image = nib.load(out / "mask.nii.gz")
    np.testing.assert_allclose(positions(np.asarray(image.dataobj), image.affine), expected, atol=2e-3)


def test_the_command_writes_what_it_can(dicom, tmp_path, caplog):
    folder, mask, _ = dicom
    code, _ = export(mask, "--reference", folder, "--formats", "dicom-seg,seg.nrrd", "--out", tmp_path / "out")
    assert code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mask.seg.nrrd", "run.json"}
    assert "must say what it shows" in caplog.text  # no codes were given
    assert str(tmp_path) not in caplog.text


def test_the_command_takes_codes_from_a_file(dicom, tmp_path):
    folder, mask, expected = dicom
    attributes = {**CODES, "SegmentAlgorithmName": "x", "AlgorithmVersion": "1"}
    (tmp_path / "s.json").write_text(json.dumps({"segmentAttributes": [[attributes]]}))
    out = tmp_path / "out"
    code, text = export(
        mask, "--reference", folder, "--segment", tmp_path / "s.json", "--formats", "dicom-seg", "-o", out
    )
    assert code == 0, text
    np.testing.assert_allclose(positions_in_seg(out / "mask.dcm"), expected, atol=2e-3)


def test_the_command_looks_codes_up(dicom, tmp_path, caplog):
    folder, mask, expected = dicom
    given = (mask, "--reference", folder, "--formats", "dicom-seg", "--out", tmp_path / "out", "--label")
    code, text = export(*given, "MS lesion=brain lesion")
    assert code == 0, text
    np.testing.assert_allclose(positions_in_seg(tmp_path / "out" / "mask.dcm"), expected, atol=2e-3)
    (segment,) = pydicom.dcmread(tmp_path / "out" / "mask.dcm").SegmentSequence
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    assert (segment.SegmentLabel, kind.CodeMeaning, segment.SegmentAlgorithmType) == (
        "MS lesion",
        "Lesion of Brain",
        "MANUAL",
    )
    assert export(*given, "xyzzy")[0] == 1
    assert "--label 'xyzzy' is not in DICOM's lists" in caplog.text


@pytest.mark.skipif(not STS.is_dir(), reason="needs ../shared/data/sts_dicom, beside the project")
def test_the_command_turns_an_rtstruct_into_a_dicom_seg(tmp_path):
    """Contours of an expert, against the mask that was published with them."""
    contours, out = f"{STS / 'MR_T1' / 'mask' / 'RS.dcm'}", tmp_path / "out"
    code, text = export(
        contours, "--reference", STS / "MR_T1" / "image", "--bundle", BUNDLE, "--formats", "dicom-seg", "--out", out
    )
    assert code == 0, text
    published = nib.load(STS.parents[1] / "sts" / "STS_041" / "mask.nii.gz")
    expected = positions(np.asarray(published.dataobj), published.affine)
    np.testing.assert_allclose(positions_in_seg(out / "mask.dcm"), expected, atol=2e-3)


@pytest.mark.parametrize("resample", [False, True])
def test_another_grid_is_resampled_only_on_request(resample, tmp_path, caplog):
    reference = write_nifti(tmp_path / "t1.nii.gz", Volume(np.ones((20, 20, 10)), affine_of((1, 1, 2))))
    mask = np.zeros((40, 40, 40))
    mask[10:30, 10:30, 10:30] = 1
    path = write_nifti(tmp_path / "m.nii.gz", Volume(mask, affine_of((0.5, 0.5, 0.5))), np.uint8)
    options = ["--resample"] if resample else []
    code, _ = export(path, "--reference", reference, "--formats", "nifti", "--out", tmp_path / "out", *options)
    assert code == (0 if resample else 1)
    assert ("ml before" if resample else "other voxels than the reference") in caplog.text
    assert (tmp_path / "out" / "mask.nii.gz").exists() is resample


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.nii.gz", "--reference", "t1.nii.gz"], "no such file"),
        (["mask.nii.gz", "--reference", "mask.nii.gz", "--formats", "stl"], "unknown formats"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "mask.nii.gz", Volume(MASK, affine_of()), np.uint8)
    code, _ = export(*arguments, "--out", "out")
    assert code == 1
    assert words in caplog.text
    assert not (tmp_path / "out").exists()


def test_bundle_and_segment_exclude_each_other(tmp_path):
    code, text = export("m.nii.gz", "--reference", "x", "--bundle", BUNDLE, "--segment", "s.json", "--out", tmp_path)
    assert code == 2
    assert "give one of --bundle, --segment and --label" in text
