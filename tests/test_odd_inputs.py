"""Odd files of the world, each with the same verdict in scan, check, predict, evaluate and export."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.running import evaluator_of
from support.synthetic import read_rows, write_table

from differseg_med.case import Case
from differseg_med.cohort.availability import presence
from differseg_med.cohort.check.check import check_cohort
from differseg_med.cohort.folds import assign_folds
from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.scan.scan import scan_folder
from differseg_med.cohort.table import read_cohort, table_modalities, write_cohort
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_case
from differseg_med.export.segment import SegmentInfo
from differseg_med.prediction.writers import export_mask

DATA = Path(__file__).parent / "data" / "odd_inputs"

REFUSED = {
    "bitflip_body.nii.gz": "damaged, cut short or not an image",
    "bitflip_body.mha": "damaged, cut short or not an image",
    "claim6g.nii.gz": "it is smaller than its header says",
    "h2.nrrd": "it is smaller than its header says",
    "lfi.mha": "voxels in another folder, which are not read",
    "lfi2.nrrd": "voxels in another folder, which are not read",
    "segfault.mha": "not one 3-D volume",
    "complex_t1.nii.gz": "the voxels are complex numbers",
    "zero.nii": "the header states an axis without voxels",
}
DOUBTED = {
    "codes_zero_t1.nii.gz": "neither sform nor qform is set.* up to 54.8 mm elsewhere",
    "nifti_q1_s2_differ.nii.gz": r"sform \(code 2\) and qform \(code 1\) put voxels up to 12.4 mm apart",
    "nifti_pixdim_disagrees_with_sform.nii.gz": "the sform are 1.800 x 1.800 x 6.600 mm, pixdim says 0.900",
    "sform_scaled_qform_not.nii.gz": "the sform are 1.575 x 1.785 x 3.255 mm, pixdim says 1.500",
    "nifti_micrometres.nii.gz": "unit is micrometres: converted, the voxels are 0.0009 x 0.0009 x 0.0033 mm",
}
SOUND = ("axial_img.nii.gz", "five_axes_t1.nii.gz", "t1_4d_singleton.mha")
WITHOUT_DATA = {"nan_background_t1.nii.gz": r"600 voxels \(12.5%\) are NaN: taken as no data"}
OPTIONAL = ("subject_id", "label", "split", "fold")
FILES = (*REFUSED, *DOUBTED, *SOUND, *WITHOUT_DATA)


def case_of(name: str) -> str:
    return name.replace(".", "_")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Every file as the T1 of a case of its own, predicted with a network whose mask is known."""
    root = tmp_path_factory.mktemp("cohort")
    rows = []
    for name in FILES:
        path = root / case_of(name) / f"t1{name[name.index('.') :]}"
        path.parent.mkdir()
        shutil.copy(DATA / name, path)
        rows.append({"case_id": case_of(name), "t1": path.relative_to(root).as_posix(), "ct": "", "pet": ""})
    table = write_table(root / "cohort.csv", rows)
    evaluator_of(table, evaluate=False).run()
    return root


def image(folder: Path, name: str) -> Path:
    return next((folder / case_of(name)).glob("t1.*"))


@pytest.fixture(scope="module")
def said(folder) -> dict[str, dict[str, str]]:
    """Level and words of each command by file."""
    summary = read_rows(folder / "out" / "summary.csv")
    scanned = {Path(source.cell).parent.name: source for _, source in scan_folder(folder, load_rules()).audit}
    checked = check_cohort(read_cohort(folder / "cohort.csv", ("t1",)), alignment=False)
    found: dict[str, dict[str, str]] = {}
    for name in FILES:
        case = case_of(name)
        row, source = summary[case], scanned[case]
        words = [
            f"{f.level}: {f.text}"
            for f in checked.findings
            if f.case == case and f.level != "ok" and "same voxels" not in f.text
        ]
        found[name] = {
            "scan": f"{source.level}: {source.reason}",
            "check": "; ".join(words),
            "predict": "; ".join((row["status"], row["reason"], row["notes"])),
        }
    return found


def evaluated(label: Path, prediction: Path) -> str:
    try:
        return evaluate_case(Case("case", "case", {}, label), prediction)[1]
    except CaseError as error:
        return f"refused: {error}"


def exported(mask: Path, reference: Path, out: Path, caplog) -> str:
    caplog.clear()
    caplog.set_level("INFO")
    try:
        assert not export_mask(str(mask), str(reference), ["nifti", "seg.nrrd"], out, SegmentInfo("mask"))
    except CaseError as error:
        return f"refused: {error}"
    return caplog.text


@pytest.mark.parametrize("name", REFUSED)
def test_refused_everywhere(folder, said, name, tmp_path, caplog):
    words, path = REFUSED[name], image(folder, name)
    assert re.search(f"error: .*{words}", said[name]["scan"]), said[name]
    assert re.search(f"error: .*{words}", said[name]["check"]), said[name]
    assert re.search(f"failed; case {case_of(name)}, file {case_of(name)}/t1.*{words}", said[name]["predict"])
    assert not (folder / "out" / case_of(name) / "mask.nii.gz").exists()
    mask = folder / "out" / "axial_img_nii_gz" / "mask.nii.gz"
    assert re.search(f"refused: .*{words}", evaluated(path, mask))
    assert re.search(f"refused: .*{words}", evaluated(mask, path))
    assert re.search(f"refused: .*{words}", exported(mask, path, tmp_path, caplog))
    assert re.search(f"refused: .*{words}", exported(path, image(folder, "axial_img.nii.gz"), tmp_path, caplog))


@pytest.mark.parametrize("name", DOUBTED)
def test_doubted_everywhere(folder, said, name, tmp_path, caplog):
    words, mask = DOUBTED[name], folder / "out" / case_of(name) / "mask.nii.gz"
    assert re.search(f"warning: used as t1; .*{words}", said[name]["scan"]), said[name]
    assert re.search(f"warning: .*{words}", said[name]["check"]), said[name]
    assert re.search(f"done; ; .*t1: .*{words}", said[name]["predict"]), said[name]
    assert re.search(words, (folder / "out" / "report.html").read_text(encoding="utf-8"))
    assert re.search(f"label: .*{words}.*prediction: .*{words}", evaluated(mask, mask))
    assert re.search(words, exported(mask, image(folder, name), tmp_path, caplog))
    told = "open mask.nii.gz there" in caplog.text  # beside an image that 3D Slicer puts elsewhere
    assert told == (name != "nifti_micrometres.nii.gz")


@pytest.mark.parametrize("name", SOUND)
def test_sound_everywhere(folder, said, name, tmp_path, caplog):
    mask = folder / "out" / case_of(name) / "mask.nii.gz"
    assert said[name]["scan"] == "ok: used as t1"
    assert said[name]["check"] == ""
    assert said[name]["predict"].startswith("done; ; ")
    assert evaluated(mask, mask) == ""
    assert "mm" not in exported(mask, image(folder, name), tmp_path, caplog)


def test_voxels_without_data_are_counted(folder, said, tmp_path, caplog):
    (name, words) = next(iter(WITHOUT_DATA.items()))
    assert said[name]["scan"] == "ok: used as t1"  # values are not looked at in a scan
    assert re.search(f"warning: {words}", said[name]["check"])
    assert re.search(f"done; ; .*t1: {words}", said[name]["predict"])
    mask = folder / "out" / case_of(name) / "mask.nii.gz"
    assert "refused: " not in exported(mask, image(folder, name), tmp_path, caplog)
    assert "voxels without a number" in evaluated(image(folder, name), mask)  # in a label they are no background


@pytest.mark.parametrize("name", [*DOUBTED, "axial_img.nii.gz", "five_axes_t1.nii.gz", "nan_background_t1.nii.gz"])
def test_the_mask_lies_on_its_image_in_every_program(folder, name):
    mask, own = folder / "out" / case_of(name) / "mask.nii.gz", image(folder, name)
    np.testing.assert_array_equal(nib.load(mask).affine, nib.load(own).affine)
    one, other = sitk.ReadImage(str(mask)), sitk.ReadImage(str(own))
    corner = [n - 1 for n in one.GetSize()]
    for index in ([0, 0, 0], corner):
        there = other.TransformIndexToPhysicalPoint([*index, *[0] * (other.GetDimension() - 3)])
        np.testing.assert_allclose(one.TransformIndexToPhysicalPoint(index), there[:3], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["redos.yaml", "rules_alias_bomb.yaml"])
def test_rule_files_that_would_never_end(name):
    with pytest.raises(CaseError, match=r"take forever|multiply to more than"):
        load_rules(DATA / name)


def test_a_table_of_one_column(tmp_path):
    table = tmp_path / "cohort.csv"
    shutil.copy(DATA / "cohort_one_column_crash.csv", table)
    shutil.copy(DATA / "axial_img.nii.gz", tmp_path)
    assert table_modalities(table) == ("t1",)
    assert {f.level for f in check_cohort(read_cohort(table, ("t1",))).findings} == {"ok"}


@pytest.mark.parametrize("left_out", [(), *((name,) for name in OPTIONAL), OPTIONAL], ids=str)
def test_tables_without_optional_columns(tmp_path, left_out):
    """Check, folds, presence and writing the table again; the columns are all that differs."""
    rows = [
        {
            "case_id": name,
            "subject_id": f"s{name}",
            "t1": "t1.nii.gz",
            "label": "m.nii.gz",
            "split": "train",
            "fold": "0",
        }
        for name in "ab"
    ]
    columns = [name for name in rows[0] if name not in left_out]
    table = tmp_path / "cohort.csv"
    lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]
    table.write_text("\n".join(lines), encoding="utf-8")
    shutil.copy(DATA / "axial_img.nii.gz", tmp_path / "t1.nii.gz")
    image = nib.load(tmp_path / "t1.nii.gz")
    nib.save(nib.Nifti1Image((image.get_fdata() > 500).astype(np.uint8), image.affine), tmp_path / "m.nii.gz")
    assert table_modalities(table) == ("t1",)
    cohort = read_cohort(table, ("t1",))
    assert [finding.level for finding in check_cohort(cohort).findings if finding.level == "error"] == []
    assert presence(cohort.cases, cohort.modalities)[0]["with label"] == 2 * ("label" not in left_out)
    assert len(assign_folds([case.subject_id for case in cohort.cases], [], 2)) == 2
    write_cohort(tmp_path / "again.csv", cohort.modalities, cohort.cases)
    assert table_modalities(tmp_path / "again.csv") == ("t1",)


def test_a_folder_a_pipe_and_other_formats_do_not_stop_a_scan(tmp_path):
    shutil.copy(DATA / "axial_img.nii.gz", tmp_path / "t1.nii.gz")
    (tmp_path / "x.nii.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "brain.mgz").write_bytes(b"x")
    found = {Path(source.cell).name: source.reason for _, source in scan_folder(tmp_path, load_rules()).audit}
    assert found["t1.nii.gz"] == "used as t1"
    assert "not read. Convert it to NIfTI" in found["brain.mgz"]
    assert set(found) == {"t1.nii.gz", "brain.mgz"}
