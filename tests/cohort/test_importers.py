"""Layouts of other tools to tables and back; MONAI and SimpleITK read what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import load_decathlon_datalist
from support.synthetic import (
    PET_SHAPE,
    T1_SHAPE,
    Volume,
    affine_of,
    read_nifti,
    row_of,
    write_case,
    write_nifti,
    write_table,
)
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.cohort.importers import column_name, read_bids, read_msd, read_nnunet, read_pattern
from differseg_med.cohort.kinds import read_kinds, write_kinds
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label

SMALL = Volume(np.arange(60, dtype=np.float32).reshape(5, 4, 3), affine_of())


def put(path, data=None, dtype=np.int16):
    return write_nifti(path, SMALL if data is None else Volume(data, SMALL.affine), dtype)


def put_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["cohort", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def nnunet(tmp_path):
    root = tmp_path / "Dataset007_Test"
    for case in ("brain_01", "brain_02"):
        for channel in range(2):
            put(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        put(root / "labelsTr" / f"{case}.nii.gz", np.tile(np.arange(3), (5, 4, 1)))
    put(root / "imagesTs" / "brain_09_0000.nii.gz")
    labels = {"background": 0, "edema": 1, "core": 2}
    info = {"channel_names": {"0": "T1w", "1": "CE-T1w"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    put_json(root / "dataset.json", info)
    put_json(
        root / "splits_final.json", [{"train": ["brain_02"], "val": ["brain_01"]}, {"train": [], "val": ["brain_02"]}]
    )
    return root


def test_nnunet_raw(nnunet):
    found = read_nnunet(nnunet)
    assert found.modalities == ("t1w", "ce_t1w")
    assert [(c.case_id, c.split, c.fold) for c in found.cases] == [
        ("brain_01", "train", "0"),
        ("brain_02", "train", "1"),
        ("brain_09", "test", ""),
    ]
    assert found.cases[0].images["ce_t1w"] == nnunet / "imagesTr" / "brain_01_0001.nii.gz"
    assert found.cases[2].label is None
    assert found.notes[0] == "brain_09 lacks ce_t1w"
    assert found.classes == {"edema": "1", "core": "2"}


def test_nnunet_splits_regions_and_test_cases(nnunet, tmp_path):
    """Names of classes and regions become values; the note on classes is silent once they are told."""
    info = json.loads((nnunet / "dataset.json").read_text())
    info["labels"] = {"background": 0, "whole tumour": [1, 2], "core": 2, "ignore": 3}
    put_json(nnunet / "dataset.json", info)
    (nnunet / "splits_final.json").rename(tmp_path / "splits.json")
    table = tmp_path / "cohort.csv"
    options = ("--splits", tmp_path / "splits.json", "--foreground", "whole tumour", "--test", "_02$")
    out = run("import", "nnunet", nnunet, "--out", table, *options)
    assert "--foreground" not in out
    cases = {case.case_id: case for case in read_cohort(table, ["t1w", "ce_t1w"]).cases}
    assert [(c.split, c.fold) for c in cases.values()] == [("validation", "0"), ("test", ""), ("test", "")]
    assert str(cases["brain_01"].label).endswith("brain_01.nii.gz::1,2")
    assert "whole tumour (1,2), core (2)" in run("import", "nnunet", nnunet, "--out", table, "--force")
    found = read_nnunet(nnunet)
    assert found.foreground("core,whole tumour") == "2,1"
    assert found.foreground("1,2") == "1,2"
    with pytest.raises(CaseError, match=r"--foreground edema is no class.*core \(2\)"):
        found.foreground("edema")
    put_json(tmp_path / "splits.json", {"train": []})
    with pytest.raises(CaseError, match="not in nnU-Net's form"):
        read_nnunet(nnunet, tmp_path / "splits.json")


def test_nnunet_of_version_1_and_with_explicit_paths(nnunet):
    info = json.loads((nnunet / "dataset.json").read_text())
    old = {"modality": info["channel_names"], "labels": {"0": "background", "1": "tumour"}}
    put_json(nnunet / "dataset.json", old)
    assert [c.case_id for c in read_nnunet(nnunet).cases] == ["brain_01", "brain_02", "brain_09"]
    entry = {
        "images": ["imagesTr/brain_02_0000.nii.gz", "imagesTr/brain_02_0001.nii.gz"],
        "label": "labelsTr/brain_02.nii.gz",
    }
    put_json(nnunet / "dataset.json", {**info, "dataset": {"other_name": entry}})
    first = read_nnunet(nnunet).cases[0]
    assert (first.case_id, first.label) == ("other_name", nnunet / "labelsTr" / "brain_02.nii.gz")


def test_the_command_chooses_label_values(nnunet, tmp_path):
    output = run("import", "nnunet", nnunet, "--out", tmp_path / "cohort.csv", "--foreground", "1,2")
    assert "note: brain_09 lacks ce_t1w" in output
    assert read_kinds(tmp_path / "cohort.csv") == {"t1w": "mr", "ce_t1w": "mr"}
    case = read_cohort(tmp_path / "cohort.csv", ("t1w", "ce_t1w")).cases[0]
    mask = np.asarray(load_label(case.label))[0]
    np.testing.assert_array_equal(mask[0, 0], [0, 1, 1])


def test_msd_of_one_channel_needs_no_new_files(tmp_path):
    put(tmp_path / "imagesTr" / "liver_1.nii.gz")
    put(tmp_path / "labelsTr" / "liver_1.nii.gz")
    entry = {"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"}
    info = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "training": [entry]}
    put_json(tmp_path / "dataset.json", info | {"test": ["./imagesTs/liver_2.nii.gz"]})
    found = read_msd(tmp_path)
    assert [(c.case_id, c.split) for c in found.cases] == [("liver_1", "train"), ("liver_2", "test")]
    assert not found.stacked
    assert found.cases[0].images["ct"].samefile(tmp_path / "imagesTr" / "liver_1.nii.gz")


def test_msd_of_several_channels_is_taken_apart(tmp_path):
    stack = np.random.default_rng(0).integers(0, 900, (5, 4, 3, 2))
    put(tmp_path / "d" / "imagesTr" / "p_1.nii.gz", stack)
    put(tmp_path / "d" / "labelsTr" / "p_1.nii.gz")
    entry = {"image": "./imagesTr/p_1.nii.gz", "label": "./labelsTr/p_1.nii.gz", "fold": 2}
    put_json(tmp_path / "d" / "dataset.json", {"modality": {"0": "T2", "1": "ADC"}, "training": [entry]})
    run("import", "msd", tmp_path / "d", "--out", tmp_path / "cohort.csv")
    case = read_cohort(tmp_path / "cohort.csv", ("t2", "adc")).cases[0]
    assert case.fold == "2"
    assert case.kinds == {"t2": "mr", "adc": "mr"}
    for channel, name in enumerate(("t2", "adc")):
        volume = read_nifti(case.images[name])
        np.testing.assert_array_equal(volume.data, stack[..., channel])
        np.testing.assert_allclose(volume.affine, SMALL.affine, atol=1e-5)


def test_msd_with_other_channels_than_modalities_is_refused(tmp_path):
    put(tmp_path / "p.nii.gz")
    put_json(tmp_path / "dataset.json", {"modality": {"0": "T2", "1": "ADC"}, "training": [{"image": "p.nii.gz"}]})
    with pytest.raises(CaseError, match="other channels than modalities"):
        read_msd(tmp_path)
    entry = {"image": ["p.nii.gz"] * 3}
    put_json(tmp_path / "dataset.json", {"modality": {"0": "T2", "1": "ADC"}, "training": [entry]})
    with pytest.raises(CaseError, match="other images than modalities"):
        read_msd(tmp_path)


def test_bids(tmp_path):
    for subject, session in (("sub-01", "ses-1"), ("sub-01", "ses-2"), ("sub-02", "ses-1")):
        folder, name = tmp_path / subject / session, f"{subject}_{session}"
        put(folder / "anat" / f"{name}_T1w.nii.gz")
        put(folder / "anat" / f"{name}_ce-gad_T1w.nii.gz")
    put(tmp_path / "sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w.nii.gz")
    put(tmp_path / "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz")
    put(tmp_path / "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz")
    masks = tmp_path / "derivatives/manual/sub-01/ses-1/anat"
    put(masks / "sub-01_ses-1_space-orig_label-lesion_mask.nii.gz")
    put(masks / "sub-01_ses-1_space-orig_label-brain_mask.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsite\nsub-01\t43\tA\nsub-02\tn/a\tB\n")
    found = read_bids(tmp_path, "lesion")
    assert found.modalities == ("flair", "t1w", "t1w_ce")
    assert [(c.case_id, c.subject_id, sorted(c.images)) for c in found.cases] == [
        ("sub-01_ses-1", "sub-01", ["flair", "t1w", "t1w_ce"]),
        ("sub-01_ses-2", "sub-01", ["t1w", "t1w_ce"]),
        ("sub-02_ses-1", "sub-02", ["t1w", "t1w_ce"]),
    ]
    assert found.cases[0].label.name == "sub-01_ses-1_space-orig_label-lesion_mask.nii.gz"
    assert [c.extra for c in found.cases] == [{"age": "43", "site": "A"}] * 2 + [{"site": "B"}]
    assert set(found.kinds.values()) == {"mr"}
    assert found.notes == ("sub-02_ses-1: 2 images are t1w, sub-02_ses-1_T1w.nii.gz is taken",)
    assert "2 masks" in read_bids(tmp_path).notes[0]
    assert [c.split for c in found.tested("ses-2").cases] == ["test", "test", ""]  # a patient stays together
    with pytest.raises(CaseError, match=r"--test sub-03 fits no case .*found sub-01_ses-1"):
        found.tested("sub-03")
    for make in (lambda: found.tested("("), lambda: read_bids(tmp_path, "(")):
        with pytest.raises(CaseError, match="is not a regular expression"):
            make()


def test_cases_for_the_test_from_every_layout(tmp_path):
    for name in "ab":
        put(tmp_path / name / "t1.nii.gz")
    put_json(tmp_path / "dataset.json", {"modality": {"0": "T1"}, "training": ["a/t1.nii.gz"], "test": []})
    layouts = {"pattern": ("--image", "t1={case}/t1.nii.gz"), "msd": ()}
    for layout, options in layouts.items():
        table = tmp_path / layout / "cohort.csv"
        run("import", layout, tmp_path, "--out", table, "--test", "^(a|t1)$", *options)
        assert next(c.split for c in read_cohort(table, ["t1"]).cases) == "test"


def test_patterns(tmp_path):
    put(tmp_path / "A" / "v1" / "t1.nii.gz")
    put(tmp_path / "A" / "v2" / "t1.nii.gz")
    (tmp_path / "A" / "v1" / "CT_abdomen").mkdir()
    put(tmp_path / "masks" / "v1_final.nii.gz")
    patterns = {"t1": "{subject}/{case}/t1.nii.gz", "ct": "{subject}/{case}/CT_*", "label": "masks/{case}_*.nii.gz"}
    found = read_pattern(tmp_path, patterns)
    assert [(c.case_id, c.subject_id, sorted(c.images)) for c in found.cases] == [
        ("v1", "A", ["ct", "t1"]),
        ("v2", "A", ["t1"]),
    ]
    assert found.cases[0].label == tmp_path / "masks" / "v1_final.nii.gz"


def test_a_pattern_may_repeat_a_name(tmp_path):
    put(tmp_path / "p1" / "p1_t1.nii.gz")
    put(tmp_path / "p1" / "p2_t1.nii.gz")
    assert [c.case_id for c in read_pattern(tmp_path, {"t1": "{case}/{case}_t1.nii.gz"}).cases] == ["p1"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("x/t1.nii.gz", "has no {case}"), ("{case}/t2.nii.gz", "nothing fits"), ("{case}/*.nii.gz", "two paths fit")],
)
def test_patterns_that_do_not_fit(tmp_path, pattern, words):
    put(tmp_path / "p1" / "t1.nii.gz")
    put(tmp_path / "p1" / "t1_b.nii.gz")
    with pytest.raises(CaseError) as error:
        read_pattern(tmp_path, {"t1": pattern})
    assert words in str(error.value)


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), ("{", "not JSON"), ("{}", "names no channels")])
def test_a_bad_dataset_json_is_told(tmp_path, content, words):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(CaseError, match=words):
        read_nnunet(tmp_path)


def test_column_names():
    assert [column_name(name) for name in ("T1w", "CE-T1w", " DWI (b=1000) ")] == ["t1w", "ce_t1w", "dwi_b_1000"]


@pytest.fixture
def table(tmp_path):
    """Case a whole, b without PET, c for test without label; PET on its own grid."""
    rows = []
    for number, case in enumerate("abc"):
        files = write_case(tmp_path / case, seed=number)
        if case == "b":
            del files["pet"]
        if case == "c":
            del files["label"]
        split = "test" if case == "c" else ""
        fold = "" if case == "c" else str(number)
        rows.append(row_of(case, files, tmp_path / "cohort.csv", split=split, fold=fold))
    write_kinds(tmp_path / "cohort.csv", {"t1": "mr", "ct": "ct", "pet": "pet"})
    return write_table(tmp_path / "cohort.csv", rows)


def test_nnunet_export_holds_every_channel_on_one_grid(table, tmp_path):
    root = tmp_path / "nnUNet_raw" / "Dataset001_Sarcoma"
    output = run("export", "nnunet", table, "--out", root, "--missing", "zeros")
    assert output == "b: zeros for pet\n3 of 3 cases exported\n"
    info = json.loads((root / "dataset.json").read_text())
    assert info["channel_names"] == {"0": "t1", "1": "CT", "2": "pet"}
    assert (info["numTraining"], info["labels"]) == (2, {"background": 0, "foreground": 1})
    assert json.loads((root / "splits_final.json").read_text()) == [
        {"train": ["b"], "val": ["a"]},
        {"train": ["a"], "val": ["b"]},
    ]
    assert sorted(p.name for p in (root / "imagesTs").iterdir()) == [f"c_{n:04d}.nii.gz" for n in range(3)]
    t1, _, pet = (sitk.ReadImage(str(root / "imagesTr" / f"a_{n:04d}.nii.gz")) for n in range(3))
    label = sitk.ReadImage(str(root / "labelsTr" / "a.nii.gz"))
    for image in (pet, label):
        assert image.GetSize() == t1.GetSize()
        np.testing.assert_allclose(image.GetOrigin(), t1.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), t1.GetDirection(), atol=1e-5)
    # The PET's hot spot is in the middle of the target, on whatever grid.
    source = sitk.ReadImage(str(tmp_path / "a" / "pet.nii.gz"))
    hot = np.unravel_index(sitk.GetArrayViewFromImage(pet).argmax(), sitk.GetArrayViewFromImage(pet).shape)[::-1]
    there = source.TransformPhysicalPointToContinuousIndex(pet.TransformIndexToPhysicalPoint([int(i) for i in hot]))
    known = np.unravel_index(sitk.GetArrayViewFromImage(source).argmax(), PET_SHAPE[::-1])[::-1]
    np.testing.assert_allclose(there, known, atol=1)
    assert not sitk.GetArrayViewFromImage(sitk.ReadImage(str(root / "imagesTr" / "b_0002.nii.gz"))).any()


def test_nnunet_export_leaves_incomplete_cases_out_and_says_so(table, tmp_path, caplog):
    output = run("export", "nnunet", table, "--out", tmp_path / "D", code=1)
    assert "2 of 3 cases exported" in output
    assert not list((tmp_path / "D").rglob("b*"))
    assert "case b: left out: nnU-Net knows no absent channel (found no pet). --missing zeros" in caplog.text


def test_what_is_exported_to_nnunet_comes_back_the_same(table, tmp_path):
    run("export", "nnunet", table, "--out", tmp_path / "D", "--missing", "zeros")
    found = read_nnunet(tmp_path / "D")
    assert found.kinds == {"t1": "mr", "ct": "ct", "pet": "pet"}
    assert [(c.case_id, c.split, c.fold) for c in found.cases] == [
        ("a", "train", "0"),
        ("b", "train", "1"),
        ("c", "test", ""),
    ]
    before, after = read_nifti(tmp_path / "a" / "ct.nii.gz"), read_nifti(found.cases[0].images["ct"])
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)


def test_msd_list_is_read_by_monai_with_folds(table, tmp_path, caplog):
    run("export", "msd", table, "--out", tmp_path / "dataset.json", code=1)
    assert "case a: left out: its images are on several grids" in caplog.text
    for case in "ac":
        shutil.copy(tmp_path / case / "ct.nii.gz", tmp_path / case / "pet.nii.gz")
    output = run("export", "msd", table, "--out", tmp_path / "dataset.json", code=1)
    assert "2 of 3 cases exported" in output
    for key in ("test", "testing"):
        (item,) = load_decathlon_datalist(str(tmp_path / "dataset.json"), True, key, str(tmp_path))
        assert Path(item["image"][0]).samefile(tmp_path / "c" / "t1.nii.gz")
    assert [case.split for case in read_msd(tmp_path).cases] == ["train", "test"]
    assert "case b: left out: a list of files cannot say what this case is (found no pet)" in caplog.text
    (item,) = load_decathlon_datalist(str(tmp_path / "dataset.json"), True, "training", str(tmp_path))
    assert [Path(p).name for p in item["image"]] == ["t1.nii.gz", "ct.nii.gz", "pet.nii.gz"]
    assert Path(item["label"]).samefile(tmp_path / "a" / "label.nii.gz")
    assert item["fold"] == 0


def test_msd_with_4d_files_is_read_by_monai_and_comes_back(table, tmp_path):
    run("export", "msd", table, "--out", tmp_path / "M" / "dataset.json", "--layout", "4d")
    items = load_decathlon_datalist(str(tmp_path / "M" / "dataset.json"), True, "training", str(tmp_path / "M"))
    assert [item["fold"] for item in items] == [0, 1]
    stack = nib.load(items[1]["image"])
    assert stack.shape == (*T1_SHAPE, 3)
    assert not np.asarray(stack.dataobj)[..., 2].any()
    run("import", "msd", tmp_path / "M", "--out", tmp_path / "back.csv")
    assert table_modalities(tmp_path / "back.csv") == ("t1", "ct", "pet")
    back = {case.case_id: case for case in read_cohort(tmp_path / "back.csv", ("t1", "ct", "pet")).cases}
    np.testing.assert_array_equal(
        read_nifti(back["a"].images["t1"]).data, read_nifti(tmp_path / "a" / "t1.nii.gz").data
    )
    assert (back["b"].fold, back["c"].split) == ("1", "test")
    assert {case_id: case.modalities for case_id, case in back.items()} == {
        "a": "t1+ct+pet",
        "b": "t1+ct",  # zeros came back as absence
        "c": "t1+ct+pet",
    }
