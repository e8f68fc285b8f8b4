"""From a table to a bundle that trains, evaluates and exports as it is, for seven sorts of cohorts; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.synthetic import ROOT, read_nifti, write_case, write_nifti, write_table
from support.walk import (
    PLANNED,
    config_of,
    metadata_of,
    walk_export,
    walk_files,
    walk_names,
    walk_network,
    walk_planned,
)
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med import api
from differseg_med.bundles.new import TEMPLATES
from differseg_med.cli import app
from differseg_med.export.segment import read_segment
from differseg_med.planning import planner
from differseg_med.prediction.quality import Fingerprint

TINY = ("roi_size=[32,32]", "pixdim=[3,3,3]", "planes=[axial]", "decoder_channels=[8,8,8,8]", "batch_size=2")
TINY += ("iterations=2", "max_epochs=1")
FLAT = ("spatial_size=[32,32]", "batch_size=2", "iterations=2", "max_epochs=1")
QUICK = ("encoder=test_resnet", "encoder_weights=null")
"""The encoder that rules choose is trained where these are not given: by nnunet, and by rgbd, which has no choice."""


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Files of three patients: t1, ct, pet, label."""
    folder = tmp_path_factory.mktemp("patients")
    return [write_case(folder / name, seed=seed) for seed, name in enumerate(("p1", "p2", "p3"))]


def table(folder: Path, patients, columns: dict[str, str], blank=(), **others: str | tuple[str, ...]) -> Path:
    """A table whose ``columns`` hold the files that they name; ``blank`` are cells that stay empty."""
    path = folder / "cohort.csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, files in enumerate(patients, 1):
        own = {c: f for c, f in columns.items() if (number, c) not in blank}
        cells = {column: str(files[name]) for column, name in {**own, "label": "label"}.items()}
        more = {name: value if isinstance(value, str) else value[number - 1] for name, value in others.items()}
        rows.append({"case_id": f"p{number}", **cells, **more})
    return write_table(path, rows, ("case_id", *columns, "label", *others))


def nnunet(folder: Path, patients) -> Path:
    """A raw data set of nnU-Net with two channels, imported."""
    root = folder / "Dataset001_Made"
    for number, files in enumerate(patients, 1):
        for channel, name in enumerate(("t1", "ct")):
            target = root / "imagesTr" / f"p{number}_{channel:04d}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[name], target)
        (root / "labelsTr").mkdir(exist_ok=True)
        shutil.copy(files["label"], root / "labelsTr" / f"p{number}.nii.gz")
    info = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(info))
    run("cohort", "import", "nnunet", root, "--out", folder / "cohort.csv")
    return folder / "cohort.csv"


def pictures(folder: Path, patients) -> Path:
    sample = ROOT / "bundles" / "pothole_rgbd_segmentation" / "sample"
    options = ("--modalities", "rgb,depth", "--mask", "mask", "--kind", "rgb=image", "--kind", "depth=depth")
    run("cohort", "import", "folders", "--root", sample, *options, "--out", folder / "cohort.csv")
    return folder / "cohort.csv"


MR = ("flair", "t1", "t1post", "t2")
PET_CT_MR = {"t1": "t1", "ct": "ct", "pet": "pet"}
COHORTS = {
    "sts": (lambda f, p: table(f, p, PET_CT_MR), "t1=mr,ct=ct,pet=pet"),
    "ms": (lambda f, p: table(f, p, dict.fromkeys(MR, "t1")), ",".join(f"{name}=mr" for name in MR)),
    "one_ct": (lambda f, p: table(f, p, {"ct": "ct"}), "ct=ct"),
    "two_phases": (lambda f, p: table(f, p, {"arterial": "ct", "portal": "ct"}), "arterial=ct,portal=ct"),
    "nnunet": (nnunet, ""),
    "blanks": (lambda f, p: table(f, p, PET_CT_MR, {(1, "ct"), (2, "pet"), (3, "pet")}), "t1=mr,ct=ct,pet=pet"),
    "rgbd": (pictures, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", COHORTS)
def test_a_planned_bundle_runs_as_it_is(name, patients, tmp_path):
    make, modalities = COHORTS[name]
    (tmp_path / "data").mkdir()
    cohort, flat = make(tmp_path / "data", patients), name == "rgbd"
    settings = FLAT if flat else TINY if name == "nnunet" else TINY + QUICK
    tiny = [part for setting in settings for part in ("--set", setting)]
    columns = ("--modalities", modalities) if modalities else ()
    out = run("plan", cohort, "--name", name, "--out", tmp_path, "--target", "liver lesion", *columns, *tiny)
    assert f"differseg-med train --bundle {tmp_path / name} --cohort {cohort} --folds all" in out
    bundle = tmp_path / name
    if name == "blanks":  # seconds; what differs between these cohorts is in the names
        walk_planned(bundle, cohort, tmp_path / "walk", configs=[["inference", "train"]])
    else:
        walk_files(bundle, PLANNED)
        walk_names(bundle)
    assert max(len(line) for file in (bundle / "configs").glob("*.yaml") for line in file.open()) <= 121
    if name in ("sts", "ms", "two_phases"):  # names differ from what the others train, or cells are blank there
        return
    trained = api.train(bundle, cohort, tmp_path / "run")
    assert (trained.best_dice is not None) == (name != "nnunet")  # that came with a split, without validation
    shutil.copy(trained.best, bundle / "models" / "model.pt")
    formats = {} if flat else {"formats": ["seg.nrrd"]}
    split = None if name == "nnunet" else "validation"
    api.evaluate(cohort, tmp_path / "results", bundle=bundle, split=split, settings=formats)
    assert len(pd.read_csv(tmp_path / "results" / "metrics.csv")) == (3 if split is None else 1)
    assert flat or list((tmp_path / "results").glob("*/*.seg.nrrd"))
    if name == "one_ct":
        walk_export(bundle, tmp_path)


def test_what_a_plan_says(patients, tmp_path):
    """Codes of the target and none of another task; each value with a reason in PLAN.md; ranges for quality flags."""
    cohort = table(tmp_path, patients, PET_CT_MR, {(1, "ct")})
    options = ("--modalities", "t1=mr,ct=ct,pet=pet", "--target", "kidney lesion", "--set", "threshold=0.4")
    out = run(
        "plan", cohort, "--name", "kidneys", "--out", tmp_path, *options, *(p for s in TINY for p in ("--set", s))
    )
    bundle = tmp_path / "kidneys"
    assert "now in 3 folds" in out
    assert sorted(pd.read_csv(cohort).fold) == [0, 1, 2]
    assert sorted(pd.read_csv(cohort).split) == ["train", "train", "validation"]
    info = read_segment(bundle)
    assert (info.name, info.property_type.meaning, info.anatomic_region.meaning) == (
        "kidney lesion",
        "Lesion",
        "Kidney",
    )
    text = (bundle / "docs" / "PLAN.md").read_text()
    inference, train = (yaml.safe_load((bundle / "configs" / f"{n}.yaml").read_text()) for n in ("inference", "train"))
    values = {**inference, **train, **train["sampling"], **train["start"]}
    named = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert len(named) > 20
    assert [name for name in named if name != "size" and name not in values] == []
    assert values["threshold"] == 0.4
    assert "set by --set" in text
    assert "33% of the cases lack a modality" in text
    assert inference["reference"] == "t1"
    assert inference["modalities"]["pet"] == {"kind": "pet"}
    assert Fingerprint.read(bundle / "models" / "fingerprint.json").modalities == {"t1": 3, "ct": 2, "pet": 3}
    assert "p1" not in (bundle / "docs" / "fingerprint.json").read_text()  # figures of the cohort, no case
    shipped = yaml.safe_load((ROOT / "bundles" / "sts_petctmr_segmentation" / "configs" / "metadata.json").read_text())
    for code in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
        assert code in metadata_of(bundle)["segment"]
    assert metadata_of(bundle)["segment"]["SegmentLabel"] != shipped["segment"]["SegmentLabel"]


def test_a_plan_from_python_moves_no_case_of_a_split(patients, tmp_path):
    """Values as Python has them; a case that validates and has a fold is planned for, as other folds train on it."""
    rows = ("train", "train", "validation")
    cohort = table(tmp_path, patients, {"ct": "ct"}, split=rows, fold=("0", "1", "2"))
    before = cohort.read_text()
    settings = dict(setting.split("=") for setting in TINY)
    found = ds.plan(
        cohort, tmp_path / "x", modalities={"ct": "ct"}, settings={n: yaml.safe_load(v) for n, v in settings.items()}
    )
    assert cohort.read_text() == before
    assert metadata_of(tmp_path / "x")["segment"]["SegmentedPropertyTypeCodeSequence"]["CodeMeaning"] == "Tissue"
    assert found.choices["pixdim"].value == [3, 3, 3]
    assert "set by --set" in found.choices["pixdim"].reason
    assert json.loads((found.folder / "docs" / "fingerprint.json").read_text())["cases"] == 3
    assert any(note.startswith("train --folds all: about 3 times 2.0 h, and") for note in found.notes)
    assert [command.split()[1] for command in found.commands] == ["train", "release", "predict"]


def test_bad_cohorts_are_refused_in_one_line(patients, tmp_path, caplog):
    def said(cohort, *options):
        caplog.clear()
        done = CliRunner().invoke(app, ["plan", str(cohort), "--name", "x", "--out", str(tmp_path / "made"), *options])
        assert done.exit_code == 1, done.output
        assert not (tmp_path / "made").exists()
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert "\n" not in line
        return line

    ct = ("--modalities", "ct=ct")
    none = table(tmp_path / "none", patients, {"ct": "ct"}, split="test")
    assert "there is no training case" in said(none, *ct)
    one = table(tmp_path / "one", patients[:1], {"ct": "ct"})
    assert "there is one training case" in said(one, *ct)
    nowhere = table(tmp_path / "nowhere", patients, {"ct": "ct", "pet": "pet"}, {(1, "pet"), (2, "pet"), (3, "pet")})
    text = said(nowhere, "--modalities", "ct=ct,pet=pet")
    assert "no training case has 'pet'" in text
    assert "--modalities ct" in text
    label = read_nifti(patients[0]["label"])
    blank = write_nifti(tmp_path / "blank.nii.gz", type(label)(label.data * 0, label.affine))
    empty = table(tmp_path / "empty", [{**files, "label": blank} for files in patients], {"ct": "ct"})
    assert "the labels of all training cases are empty" in said(empty, *ct)
    photo = ROOT / "bundles" / "pothole_rgbd_segmentation" / "sample"
    flat = {"ct": photo / "depth" / "d1_07.png", "label": photo / "mask" / "d1_07.png"}
    mixed = table(tmp_path / "mixed", [*patients, flat], {"ct": "ct"})
    assert "mixes 2-D images and volumes" in said(mixed, *ct)
    unknown = table(tmp_path / "unknown", patients, {"ct": "ct"})
    assert "cohort kinds" in said(unknown)
    assert "Lesion of Brain" in said(unknown, *ct, "--target", "ms lesion")
    assert "--time soon" in said(unknown, *ct, "--time", "soon")
    assert "no such value" in said(unknown, *ct, *(p for s in (*TINY, "pixdims=1") for p in ("--set", s)))
    assert "less memory than was asked for" in said(unknown, *ct, "--memory", "900TB")
    tiny = said(unknown, *ct, "--memory", "0.5GB", *(p for s in TINY[:4] for p in ("--set", s)))
    assert "the memory does not hold a training" in tiny
    hasty = said(unknown, *ct, "--time", "0.1s", *(p for s in TINY[:4] for p in ("--set", s)))
    assert "the time is too short for a training" in hasty
    assert "--time 0 s, enough for 0 steps" in hasty


def test_eight_gigabytes_asked_and_one_there(patients, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(planner, "free_memory", lambda device: 10**9)
    cohort = table(tmp_path, patients, {"ct": "ct"})
    done = CliRunner().invoke(app, ["plan", str(cohort), "--name", "x", "--memory", "8GB", "--modalities", "ct=ct"])
    assert done.exit_code == 1
    assert "expected 8.0 GB (--memory), found 1.0 GB free" in caplog.text


def test_new_is_the_same_without_data(tmp_path, caplog):
    out = run(
        "new", "--name", "gliomas", "--modalities", "flair=mr,t1c=mr", "--target", "brain tumour", "--folder", tmp_path
    )
    assert "differseg-med train --bundle" in out
    bundle = tmp_path / "gliomas"
    walk_files(bundle, PLANNED[:4])
    walk_names(bundle)
    walk_network(bundle)
    assert read_segment(bundle).property_type.meaning == "Neoplasm"
    assert config_of(bundle)["in_channels"] == [3, 3]
    for options, words in (
        (("--modalities", "flair"), "does not say the kind"),
        (("--modalities", "rgb=image,ct=ct"), "cannot be in one bundle"),
        ((), "say what the images are"),
    ):
        caplog.clear()
        run("new", "--name", "x", "--folder", tmp_path, *options, code=1)
        assert words in caplog.text


def test_templates_leave_no_field_open(tmp_path):
    run("new", "--name", "a", "--modalities", "rgb=image,depth=depth", "--folder", tmp_path)
    run("new", "--name", "b", "--modalities", "ct=ct", "--folder", tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 18
    assert [path for path in files if "<<" in path.read_text()] == []
    assert {path.name for path in TEMPLATES.iterdir() if path.is_dir()} == {"image2d", "volume"}
