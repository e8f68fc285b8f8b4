"""The package from Python: the same masks as from the command line and MONAI, and images in memory as from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from support.synthetic import BUNDLE, OBLIQUE, SMALL, bundle_workflow, row_of, tiny_network, write_case, write_table
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app

SETTINGS = {**SMALL, "largest_only": False}


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> tuple[Path, dict[str, Path], dict]:
    """A table of one oblique case, its files, and the settings of a tiny network with random weights."""
    folder = tmp_path_factory.mktemp("patient")
    files = write_case(folder / "case", codes="LPS", angles=OBLIQUE)
    torch.save(tiny_network().state_dict(), folder / "tiny.pt")
    table = write_table(folder / "cohort.csv", [row_of("case", files, folder / "cohort.csv")])
    files.pop("label")
    settings = {**SETTINGS, "checkpoint": str(folder / "tiny.pt")}
    values = np.sort(ds.segment(BUNDLE, settings=settings, device="cpu", **files).probability.ravel())
    middle = values[len(values) * 2 // 5 : len(values) * 3 // 5]
    gap = int(np.argmax(np.diff(middle)))  # so that no voxel is decided by the last digit
    return table, files, {**settings, "threshold": round(float(middle[gap : gap + 2].mean()), 9)}


@pytest.fixture(scope="module")
def expected(patient, tmp_path_factory) -> np.ndarray:
    """The mask that MONAI's own workflow writes."""
    table, _, settings = patient
    out = tmp_path_factory.mktemp("monai")
    given = {"postprocessing::largest_only" if name == "largest_only" else name: v for name, v in settings.items()}
    workflow = bundle_workflow("inference.yaml", cohort=str(table), output_dir=str(out), **given)
    workflow.run()
    mask = nib.load(out / "case" / "mask.nii.gz")
    voxels = np.asarray(mask.dataobj)
    assert 0 < voxels.mean() < 1  # a mask that could be wrong
    return voxels


def test_predict_is_what_monai_runs(patient, expected, tmp_path, capsys):
    table, _, settings = patient
    result = ds.predict(BUNDLE, table, tmp_path / "out", settings=settings, device="cpu")
    assert (result.failures, result.problem, result.out_dir) == ((), "", tmp_path / "out")
    assert [row["status"] for row in result.rows] == ["done"]
    np.testing.assert_array_equal(nib.load(tmp_path / "out" / "case" / "mask.nii.gz").get_fdata(), expected)
    assert capsys.readouterr() == ("", "")


def test_shards_are_collected(patient, expected, tmp_path):
    """From Python and from the command line; the second of two shards has no case."""
    table, _, settings = patient
    common = {"settings": settings, "device": "cpu", "jobs": 2}
    found = [ds.predict(BUNDLE, table, tmp_path, shard=s, **common) for s in ("1/2", "2/2")]
    assert [[row["case_id"] for row in result.rows] for result in found] == [["case"], []]
    done = CliRunner().invoke(app, ["collect", str(tmp_path)])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(nib.load(tmp_path / "case" / "mask.nii.gz").get_fdata(), expected)
    again = ds.collect(tmp_path)
    assert ([row["status"] for row in again.rows], again.failures, again.problem) == (["done"], (), "")


def in_memory(files: dict[str, Path], kind: str) -> dict[str, object]:
    if kind == "nibabel":
        return {name: nib.load(path) for name, path in files.items()}
    if kind == "SimpleITK":
        return {name: sitk.ReadImage(str(path)) for name, path in files.items()}
    if kind == "MetaTensor":
        images = {name: nib.load(path) for name, path in files.items()}
        return {
            n: MetaTensor(torch.tensor(i.get_fdata()[None]), affine=torch.tensor(i.affine)) for n, i in images.items()
        }
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize("kind", ["path", "nibabel", "SimpleITK", "MetaTensor"])
def test_segment_gives_the_same_voxels_whatever_the_images_come_as(patient, expected, kind):
    _, files, settings = patient
    found = ds.segment(BUNDLE, settings=settings, device="cpu", **in_memory(files, kind))
    np.testing.assert_array_equal(found.mask, expected)
    reference = nib.load(files["t1"])
    np.testing.assert_allclose(found.grid.affine, reference.affine, atol=1e-4)
    assert found.grid.shape == found.probability.shape == reference.shape
    assert found.volume_ml == pytest.approx(expected.sum() * abs(np.linalg.det(reference.affine[:3, :3])) / 1000)
    assert (found.reference, found.modalities) == ("t1", ("t1", "ct", "pet"))


def test_one_patient_from_the_command_line(patient, expected, tmp_path):
    _, files, settings = patient
    images = [f"--image={name}={path}" for name, path in files.items()]
    options = ["--bundle", str(BUNDLE), "--out", str(tmp_path), "--device", "cpu"]
    as_text = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    done = CliRunner().invoke(app, ["predict", *images, *options, *as_text])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(nib.load(tmp_path / "case" / "mask.nii.gz").get_fdata(), expected)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["t1"], "--image t1 is not understood (expected NAME=FILE"),
        (["=a.nii.gz"], "--image =a.nii.gz is not understood"),
        (["t1=a.nii.gz", "t1=b.nii.gz"], "--image t1 is given twice (expected one file per modality)"),
        (["t2=a.nii.gz"], "the bundle has no modality 't2' (expected some of t1, ct, pet, found t2)"),
    ],
)
def test_images_that_are_mistyped_are_told_in_one_line(images, words, tmp_path, caplog):
    arguments = [f"--image={image}" for image in images]
    done = CliRunner().invoke(app, ["predict", *arguments, "--bundle", str(BUNDLE), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert words in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_table_or_images_not_both_and_not_neither(patient, tmp_path):
    table, _, _ = patient
    base = ["predict", "--bundle", str(BUNDLE), "--out", str(tmp_path)]
    for more in ([], ["--cohort", str(table), "--image", "t1=a"]):
        done = CliRunner().invoke(app, [*base, *more], env={"TERM": "dumb"})
        assert done.exit_code == 2
        assert "either --cohort or --image" in done.output


def test_what_cannot_be_raises(patient, tmp_path):
    table, _, settings = patient
    with pytest.raises(ds.CaseError, match=r"t1: this image has no affine .*found ndarray"):
        ds.segment(BUNDLE, t1=np.zeros((3, 3, 3)))
    with pytest.raises(ds.CaseError, match="no image was given"):
        ds.segment(BUNDLE)
    with pytest.raises(ds.CaseError, match=r"t1: not one 3-D volume .*found shape \(2, 2, 2, 2\)"):
        ds.segment(BUNDLE, t1=nib.Nifti1Image(np.zeros((2, 2, 2, 2)), np.eye(4)))
    with pytest.raises(ds.CaseError, match=r"nowhere.nii.gz: there is no such file"):
        ds.segment(BUNDLE, settings=settings, device="cpu", t1="nowhere.nii.gz")
    with pytest.raises(ds.ConfigError, match="entry threshold"):
        ds.predict(BUNDLE, table, tmp_path, settings={"threshold": "high"})
    with pytest.raises(ds.CaseError, match="either a bundle or predictions"):
        ds.evaluate(table, tmp_path)
    with pytest.raises(ds.CaseError, match="two models"):
        ds.compare([tmp_path / "metrics.csv"], tmp_path)
    assert not (tmp_path / "case").exists()


def test_cohorts_volumes_and_labels_are_read(patient, tmp_path):
    table, files, _ = patient
    cohort = ds.read_cohort(table)
    assert (cohort.modalities, [case.case_id for case in cohort.cases]) == (("t1", "ct", "pet"), ["case"])
    assert ds.read_volume(files["ct"]).shape == (1, *nib.load(files["ct"]).shape)
    label = ds.read_label(table.parent / "case" / "label.nii.gz", list(files.values()))
    assert sorted(label.unique().tolist()) == [0, 1]
    found = ds.check(table, tmp_path / "check", alignment=False)
    assert not [finding for finding in found.findings if finding.level == "error"]
    assert (tmp_path / "check" / "check.csv").is_file()
    measured = ds.evaluate(table, tmp_path / "out", predictions=perfect(table, tmp_path / "masks"))
    assert [row["dice"] for row in measured.metrics] == [1.0]


def perfect(table: Path, folder: Path) -> Path:
    """Predictions that are the labels."""
    (folder / "case").mkdir(parents=True)
    nib.save(nib.load(table.parent / "case" / "label.nii.gz"), folder / "case" / "mask.nii.gz")
    return folder


def test_importing_the_package_costs_nothing():
    code = (
        "import sys, differseg_med as ds; assert ds.__version__ and 'segment' in dir(ds);"
        "print([m for m in ('torch', 'monai', 'numpy', 'nibabel') if m in sys.modules]);"
        "import differseg_med.errors; print(hasattr(ds, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]
    assert set(ds.__all__) <= {*dir(ds)}
    assert all(getattr(ds, name) is not None for name in ds.__all__)
