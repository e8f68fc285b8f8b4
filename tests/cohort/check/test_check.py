"""``cohort check`` and ``cohort folds`` on cases with something wrong, and on sound ones."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.bodies import AFFINE, SHAPE, body
from support.making import save, slices, stored, uid
from support.synthetic import Volume, read_nifti, read_rows, row_of, stored_as, write_case, write_nifti, write_table
from typer.testing import CliRunner

from differseg_med.case import Case
from differseg_med.cli import app
from differseg_med.cohort.availability import presence
from differseg_med.cohort.check.check import check_cohort
from differseg_med.cohort.kinds import write_kinds
from differseg_med.cohort.table import read_cohort
from differseg_med.io.itk import as_image, as_voxels

MODALITIES = ("t1", "ct", "pet")


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["cohort", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def files(tmp_path):
    """Files of three cases, a to c, that are different patients."""
    made = {case: write_case(tmp_path / case, seed=number) for number, case in enumerate("abc")}
    for number, own in enumerate(made.values()):
        pet, label = read_nifti(own["pet"]), read_nifti(own["label"])
        write_nifti(own["pet"], Volume(pet.data * (1 + number), pet.affine))
        label.data[:number, 0, 0] = 1
        write_nifti(own["label"], label, np.uint8)
    return made


def table_of(tmp_path, files, **columns):
    rows = [
        row_of(case, own, tmp_path / "cohort.csv", **{name: values[case] for name, values in columns.items()})
        for case, own in files.items()
    ]
    write_kinds(tmp_path / "cohort.csv", {"t1": "mr", "ct": "ct", "pet": "pet"})
    return write_table(tmp_path / "cohort.csv", rows)


def checked(tmp_path, files, alignment=False, **columns):
    table = table_of(tmp_path, files, **columns)
    return check_cohort(read_cohort(table, MODALITIES), alignment=alignment)


def worse(check):
    return [(f.level, f.case, f.column) for f in check.worse_than_ok()]


def test_a_sound_cohort(tmp_path, files):
    del files["c"]["pet"]
    table = table_of(tmp_path, files, split={"a": "train", "b": "train", "c": "validation"})
    output = run("check", table, "--out", tmp_path / "out")
    assert "No errors and no warnings." in output
    lines = [line.split() for line in output.splitlines()]
    assert ["yes", "yes", "yes", "2", "2", "2", "0"] in lines
    assert ["yes", "yes", "-", "1", "1", "0", "1"] in lines
    label = read_nifti(files["a"]["label"])
    volume = f"{label.data.sum() * 1.5 * 1.7 * 3.1 / 1000:.1f}"
    assert ["a", "a", "train", "t1+ct+pet", volume, "0", "0"] in lines
    rows = list(csv.DictReader((tmp_path / "out" / "check.csv").open()))
    assert {row["level"] for row in rows} == {"ok"}
    assert "No errors and no warnings" in (tmp_path / "out" / "check.html").read_text()


def test_unreadable_files_are_named_and_the_others_still_checked(tmp_path, files):
    files["a"]["ct"].write_bytes(b"damaged")
    files["b"]["label"].unlink()
    check = checked(tmp_path, files)
    assert worse(check) == [("error", "a", "ct"), ("error", "b", "label")]
    assert {f.case for f in check.findings} == {"a", "b", "c"}
    output = run("check", tmp_path / "cohort.csv", "--no-alignment", code=1)
    assert output.count("error: ") == 2
    assert str(tmp_path) not in output


def test_a_row_without_any_image_is_an_error_of_the_table(tmp_path, files):
    del files["a"]["t1"], files["a"]["ct"], files["a"]["pet"]
    check = checked(tmp_path, files)
    assert worse(check) == [("error", "a", "")]
    assert check.warnings_and_errors() == [
        ("error", "a: the case has no image. Fill in a modality, or take the row out of the table.")
    ]


def test_images_of_another_space_are_errors_with_figures(tmp_path, files):
    volume = read_nifti(files["a"]["pet"])
    far = volume.affine.copy()
    far[2, 3] += 400
    write_nifti(files["a"]["pet"], Volume(volume.data, far))
    check = checked(tmp_path, files, alignment=True)
    assert worse(check) == [("error", "a", "pet")]
    assert "does not overlap t1: the centers of the fields of view are" in check.worse_than_ok()[0].text


def test_labels_on_another_grid_and_empty_ones(tmp_path, files):
    write_nifti(files["a"]["label"], Volume(np.ones((4, 4, 4)), read_nifti(files["a"]["t1"]).affine), np.uint8)
    label = read_nifti(files["b"]["label"])
    write_nifti(files["b"]["label"], Volume(label.data * 0, label.affine), np.uint8)
    assert worse(checked(tmp_path, files)) == [("error", "a", "label"), ("warning", "b", "label")]


def test_what_was_left_out_of_a_label_is_told(tmp_path, files):
    """A segmentation of 3D Slicer that reaches three columns out of the image."""
    label = read_nifti(files["a"]["label"])
    affine = label.affine @ [[1, 0, 0, -3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    image = as_image(np.ones_like(label.data, np.uint8), affine)
    image.SetMetaData("Segment0_Name", "tumour")
    files["a"]["label"] = tmp_path / "a.seg.nrrd"
    sitk.WriteImage(image, str(files["a"]["label"]))
    check = checked(tmp_path, files)
    assert worse(check) == [("warning", "a", "label")]
    lost = 3 * label.data[0].size
    assert check.worse_than_ok()[0].text == f"{lost} voxels of the label lie outside the image"


def test_headers_that_contradict_themselves(tmp_path, files):
    image = nib.load(files["a"]["ct"])
    turned = image.affine.copy()
    turned[1, 3] += 25
    image.set_qform(turned, 1)
    image.set_sform(image.affine, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "new.nii.gz")
    (tmp_path / "new.nii.gz").replace(files["a"]["ct"])
    check = checked(tmp_path, files)
    assert worse(check) == [("error", "a", "ct")]
    assert "up to 25.0 mm apart" in check.worse_than_ok()[0].text


def test_the_same_image_in_another_format_and_orientation_is_a_leak(tmp_path, files):
    # b's T1 becomes a's, stored along other axes: nothing but the voxels tells.
    source = read_nifti(files["a"]["t1"])
    back = Volume(*as_ras(source))
    write_nifti(files["b"]["t1"], stored_as(back, "SAL"))
    check = checked(tmp_path, files, split={"a": "train", "b": "validation", "c": "train"})
    leaks = [f for f in check.worse_than_ok() if "same voxels" in f.text]
    assert [(f.level, f.text) for f in leaks] == [
        ("error", "the same voxels: t1 of a, t1 of b (a train, b validation)")
    ]


def as_ras(volume):
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    return np.asarray(image.dataobj), image.affine


def test_a_patient_whose_number_is_in_the_dicom_files_is_found_on_both_sides(tmp_path, caplog):
    for number, (folder, patient) in enumerate({"a": "MRN-4711", "b": "MRN-4711", "c": "MRN-1"}.items()):
        images = slices(stored(seed=number), series=folder)
        for image in images:
            image.PatientID, image.StudyInstanceUID = patient, uid("study", folder)
        save(tmp_path / folder, images)
    rows = [{"case_id": c, "t1": c, "split": "validation" if c == "b" else "train"} for c in "abc"]
    output = run("check", write_table(tmp_path / "cohort.csv", rows), "--out", tmp_path / "out", code=1)
    assert "error: a: the same PatientID in cases of several subjects: a, b (a train, b validation)" in output
    assert not any("4711" in text for text in (output, (tmp_path / "out/check.html").read_text(), caplog.text))


def test_doubts_about_a_series_are_warnings(tmp_path):
    made = slices(stored())
    made[2].LossyImageCompression = "01"
    save(tmp_path / "a", made)
    table = write_table(tmp_path / "cohort.csv", [{"case_id": "a", "t1": "a"}])
    (found,) = check_cohort(read_cohort(table, ("t1",))).worse_than_ok()
    assert (found.level, found.case, found.column) == ("warning", "a", "t1")
    assert "compressed with loss" in found.text


def test_a_subject_on_both_sides_is_an_error(tmp_path, files):
    table = table_of(tmp_path, files, split={"a": "train", "b": "validation", "c": "train"})
    text = table.read_text().replace("\na,,", "\na,p1,").replace("\nb,,", "\nb,p1,")
    table.write_text(text)
    output = run("check", table, "--no-alignment", code=1)
    assert "subject p1 is on both sides of the split (split train: a; split validation: b)" in output


def test_modalities_that_do_not_line_up_are_a_warning(tmp_path):
    ct, pet = (as_voxels(image)[0] for image in (body(), body(other=True)))
    off = AFFINE.copy()
    off[1, 3] += 12
    own = {
        "ct": write_nifti(tmp_path / "a" / "ct.nii.gz", Volume(ct, AFFINE)),
        "pet": write_nifti(tmp_path / "a" / "pet.nii.gz", Volume(pet, off)),
    }
    assert ct.shape == SHAPE
    check = checked(tmp_path, {"a": own}, alignment=True)
    (finding,) = check.worse_than_ok()
    assert (finding.level, finding.column) == ("warning", "pet")
    assert "moved by 12 mm (+0 right, -12 front, +0 up)" in finding.text


def test_presence_counts_patterns_and_splits():
    cases = [
        Case("a", "a", {"t1": "x", "ct": "x"}, label="y", split="train"),
        Case("b", "b", {"t1": "x"}, split="train"),
        Case("c", "c", {"t1": "x"}, label="y", split="test"),
    ]
    assert presence(cases, ("t1", "ct")) == [
        {"t1": "yes", "ct": "-", "cases": 2, "with label": 1, "test": 1, "train": 1},
        {"t1": "yes", "ct": "yes", "cases": 1, "with label": 1, "test": 0, "train": 1},
    ]


def test_folds_fill_the_column_and_keep_everything_else(tmp_path, files):
    table = table_of(tmp_path, files, split={"a": "", "b": "", "c": "test"})
    before = read_rows(table)
    output = run("folds", table, "--k", "2", "--stratify", "label_volume,modalities", "--validation", "1")
    assert "fold 0" in output
    after = read_rows(table)
    assert {after["a"]["fold"], after["b"]["fold"]} == {"0", "1"}
    assert after["c"]["fold"] == ""
    assert {after[c]["split"] for c in "abc"} == {"train", "validation", "test"}
    for case in "abc":
        assert {m: after[case][m] for m in (*MODALITIES, "label")} == {
            m: before[case][m] for m in (*MODALITIES, "label")
        }


@pytest.mark.parametrize(
    ("arguments", "words"), [(("--k", "9"), "9 folds need"), (("--stratify", "site"), "cannot stratify by 'site'")]
)
def test_folds_that_cannot_be_made_leave_the_table_alone(tmp_path, files, arguments, words, caplog):
    table = table_of(tmp_path, files)
    text = table.read_text()
    run("folds", table, *arguments, code=1)
    assert words in caplog.text
    assert table.read_text() == text
