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
from support.making import COLUMNS, ROWS, SLICES, affine_lps, ras, save, slices
from support.odd_labels import DATA, LABELS, Drawn, late_injection, make_drawn
from support.running import evaluator_of
from support.synthetic import BUNDLE, read_rows, write_table
from typer.testing import CliRunner

from differseg_med.bundles.lint import check_trust, lint_files
from differseg_med.case import Case
from differseg_med.cli import app
from differseg_med.cohort.availability import presence
from differseg_med.cohort.check.check import check_cohort
from differseg_med.cohort.folds import assign_folds
from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.scan.scan import scan_folder
from differseg_med.cohort.table import read_cohort, table_modalities, write_cohort
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import evaluate_case
from differseg_med.export.segment import SegmentInfo
from differseg_med.io.dicom.reader import read_volume
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume
from differseg_med.prediction.writers import export_mask

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
    if prediction == label:  # a label is not compared with itself: a copy stands for a prediction
        folder = prediction.parent / "predicted"
        folder.mkdir(exist_ok=True)
        prediction = Path(shutil.copy(prediction, folder / prediction.name))
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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, dict[str, Drawn], dict[str, dict[str, str]]]:
    """Labels with images on which a network of known masks draws the same; predicted and measured."""
    root = tmp_path_factory.mktemp("labels")
    cases = make_drawn(root)
    rows = [{"case_id": name, "t1": str(c.image), "label": c.cell} for name, c in cases.items()]
    table = write_table(root / "cohort.csv", rows)
    evaluator_of(table).run()
    return root, cases, read_rows(root / "out" / "metrics.csv")


@pytest.mark.parametrize("name", LABELS)
def test_labels_in_five_commands(drawn, name, tmp_path, caplog):
    root, cases, metrics = drawn
    case, found = cases[name], cases[name].mask
    assert found.sum() == LABELS[name]
    # scan
    lines = [f"{s.level}: {s.reason}" for _, s in scan_folder(root / name, load_rules()).audit if s.role == "label"]
    assert lines
    assert all(re.search(case.scan, line) for line in lines), lines
    # check
    cohort = read_cohort(root / "cohort.csv", ("t1",))
    checked = [f for f in check_cohort(cohort, alignment=False).findings if f.case == name]
    assert not [f for f in checked if f.level == "error"]
    assert bool([f for f in checked if f.level == "warning" and "the label is empty" in f.text]) == (not found.any())
    assert re.search(case.said, "; ".join(f.text for f in checked))
    # predict, which measures, too
    row = metrics[name]
    assert row["status"] == "done", row
    voxel_ml = float(np.abs(np.linalg.det(load_label(case.cell, [case.image]).affine.numpy()))) / 1000
    assert float(row["reference_ml"]) == pytest.approx(found.sum() * voxel_ml, rel=1e-4)
    assert not found.any() or float(row["dice"]) > 0.999
    # evaluate
    mask = root / "out" / name / "mask.nii.gz"
    (owner,) = (c for c in cohort.cases if c.case_id == name)
    scores, notice = evaluate_case(owner, mask)
    assert scores["dice"] == pytest.approx(float(row["dice"]), abs=1e-3)
    assert re.search(case.said, notice)
    assert scores["reference_ml"] == pytest.approx(found.sum() * voxel_ml, rel=1e-4)
    # export
    assert re.search(case.said, exported(case.cell, str(case.image), tmp_path, caplog))
    (written,) = tmp_path.rglob("*.nii.gz")
    assert np.asarray(nib.load(written).dataobj).sum() == found.sum()
    np.testing.assert_array_equal(drawn_in(written), drawn_at(case))


def drawn_at(case: Drawn) -> np.ndarray:
    """Places (N, 3, RAS, mm) of the voxels that must be drawn, by the image's affine."""
    affine = nib.load(case.image).affine if case.image.is_file() else ras(affine_lps())  # what `slices` states
    return ordered(nib.affines.apply_affine(affine, np.argwhere(case.mask)))


def drawn_in(path: Path) -> np.ndarray:
    """Places of the voxels that are drawn in a NIfTI file, by nibabel."""
    image = nib.load(path)
    return ordered(nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj))))


def ordered(points: np.ndarray) -> np.ndarray:
    points = points.round(2) + 0.0
    return points[np.lexsort(points.T)]


def test_a_pet_series_injected_after_its_start(tmp_path, caplog):
    """The tags of the dynamic series; values by hand: stored x slope / (dose decayed back by 60 s / weight)."""
    by_hand = 368080000 * 2 ** (60 / 6586.2) / 70000
    pixels = np.zeros((SLICES, ROWS, COLUMNS), np.int16)
    pixels[1:5, 4:30, 4:30], pixels[2, 8:10, 8:10], pixels[3, 8:10, 8:10] = 3600, 720, 14400
    folder = tmp_path / "pet"
    save(folder, slices(pixels, modality="PT", series="pet", change=late_injection))
    values = load_volume(folder)[0].numpy()
    expected = np.sort(np.unique(pixels)) * 1.469889179 / by_hand
    np.testing.assert_allclose(np.unique(values.round(4)), expected, atol=1e-3)
    inside = values[values > 0]
    assert [round(float(v), 2) for v in (inside.min(), np.median(inside), inside.max())] == [0.2, 1.0, 4.0]
    words = "injected 60 s after the start of the scan"
    scan = scan_folder(tmp_path, load_rules())
    assert [(s.modality, s.level) for _, s in scan.audit] == [("pet", "ok")]  # a scan does not look at values
    t1 = nib.Nifti1Image(pixels.transpose(2, 1, 0), read_volume(folder).grid.affine)
    nib.save(t1, tmp_path / "t1.nii.gz")
    table = write_table(tmp_path / "cohort.csv", [{"case_id": "a", "t1": "t1.nii.gz", "pet": "pet"}])
    checked = check_cohort(read_cohort(table, ("t1", "ct", "pet")), alignment=False).findings
    assert [f.text for f in checked if f.level == "error"] == []
    assert [f.column for f in checked if words in f.text] == ["pet"]  # the check tells what the prediction tells
    evaluator_of(table, evaluate=False).run()
    row = read_rows(tmp_path / "out" / "summary.csv")["a"]
    assert row["status"] == "done"
    assert re.search(f"pet: .*{words}", row["notes"])
    # evaluate reads label and mask, export the mask and the place of the image: neither reads values of the PET
    assert "refused" not in exported(str(tmp_path / "out" / "a" / "mask.nii.gz"), str(folder), tmp_path / "x", caplog)


def test_a_bundle_that_runs_a_command(tmp_path, monkeypatch, caplog):
    """Scan, check, evaluate and export read no bundle; predict and train refuse it before anything is imported."""
    (tmp_path / "differseg_med_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close(); x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    evil = DATA / "evil_inference.yaml"
    assert any("differseg_med_evil" in str(refused) for refused in lint_files([evil]))
    with pytest.raises(CaseError, match="import of differseg_med_evil"):
        check_trust([evil])
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    shutil.copy(evil, bundle / "configs" / "inference.yaml")
    table = write_table(tmp_path / "cohort.csv", [{"case_id": "a", "t1": "a.nii.gz"}])
    for command in ("predict", "evaluate", "train"):
        arguments = [command, "--bundle", str(bundle), "--cohort", str(table), "--out", str(tmp_path / "out")]
        assert CliRunner().invoke(app, arguments).exit_code == 1
        assert "import of differseg_med_evil" in caplog.text
        caplog.clear()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()


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
