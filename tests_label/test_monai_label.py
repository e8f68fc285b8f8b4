"""A real server of MONAI Label in an environment of its own serves a bundle: run by `make test-label`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from support.label_server import finished, mask_of, serving
from support.orthanc import SECRET, fill, orthanc
from support.servers import free_port, wait_for
from support.synthetic import BUNDLE, OBLIQUE, ROOT, write_case
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app
from differseg_med.io.volumes import load_volume
from differseg_med.reports.overlay import closest_ras, save_overlay

PICTURES = os.environ.get("DIFFERSEG_PICTURES", "")
"""Folder for pictures of the docs; blank keeps them as they are."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """T1 and PET of one patient, each on a grid of its own, without a CT."""
    folder = tmp_path_factory.mktemp("studies")
    made = write_case(tmp_path_factory.mktemp("case"), codes="LPS", angles=OBLIQUE)
    return {name: Path(shutil.copy(made[name], folder / f"p01_{name}.nii.gz")) for name in ("t1", "pet")}


@pytest.fixture(scope="module")
def expected(images: dict[str, Path]) -> tuple[np.ndarray, np.ndarray, float]:
    """Mask and affine by our own interface, and a threshold at a gap that cuts the probability in two."""
    found = ds.segment(BUNDLE, device="cpu", **images)
    values = np.sort(found.probability.ravel())
    middle = values[len(values) * 3 // 5 : len(values) * 4 // 5]
    gap = int(np.argmax(np.diff(middle)))
    threshold = round(float(middle[gap : gap + 2].mean()), 9)
    again = ds.segment(BUNDLE, device="cpu", settings={"threshold": threshold}, **images)
    return np.asarray(again.mask), nib.load(images["t1"]).affine, threshold


@pytest.fixture(scope="module")
def server(images, expected, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, images["t1"].parent, {"set": f"threshold={expected[2]}"}) as url:
        yield url


def test_the_server_gives_the_mask_of_predict_voxel_for_voxel(server, expected, tmp_path):
    """T1 and PET are found by their names, the CT is missing."""
    answer = requests.post(f"{server}/infer/differseg?image=p01_t1&output=image", timeout=300)
    found = mask_of(answer, tmp_path)
    assert 0 < expected[0].mean() < 1
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected[0])
    np.testing.assert_allclose(found.affine, expected[1], atol=1e-5)


def test_a_mask_lies_on_the_image_that_is_open(server, images, tmp_path):
    """With the PET open the mask has its grid; the answer says what it was made from."""
    answer = requests.post(f"{server}/infer/differseg?image=p01_pet", timeout=300)
    found, pet = mask_of(answer, tmp_path), nib.load(images["pet"])
    assert b'"modalities": "t1+pet"' in answer.content
    assert b'"weights": "of the bundle"' in answer.content
    assert found.shape == pet.shape
    np.testing.assert_allclose(found.affine, pet.affine, atol=1e-5)


def test_a_server_that_does_not_start_is_named(tmp_path):
    log = tmp_path / "log"
    log.write_text("no such port")
    with subprocess.Popen([sys.executable, "-c", ""]) as process, pytest.raises(RuntimeError) as raised:
        wait_for("MONAI Label", free_port(), process, log)
    assert str(raised.value) == "MONAI Label did not start:\nno such port"


def test_info_names_one_image_per_case_and_value_1(server):
    info = requests.get(f"{server}/info/", timeout=60).json()
    assert set(info["models"]["differseg"]["labels"].values()) == {1}
    assert info["datastore"]["total"] == 1
    following = requests.post(f"{server}/activelearning/random", json={}, timeout=60).json()
    assert following["id"] == "p01_t1"


def test_what_is_not_done_is_said(server):
    train = "train/differseg?run_sync=true"
    for path, request, status, words in (
        ("infer/differseg?image=nobody", {}, 404, "no such image"),
        (train, {}, 400, "final label: 0, but training needs 2 at least"),
        (train, {"max_epochs": 0}, 400, "max_epochs is 0, but must be a whole number from 1 to 1000"),
        (train, {"max_epochs": "two"}, 400, "max_epochs is two"),
        (train, {"learning_rate": "inf"}, 400, "must be a number from 1e-06 to 0.1"),
        (train, {"learning_rate": 1}, 400, "learning_rate is 1"),
        (train, {"val_split": True}, 400, "must be a number from 0.05 to 0.5"),
        (train, {"publish": "perhaps"}, 400, "publish is perhaps"),
    ):
        answer = requests.post(f"{server}/{path}", json=request, timeout=60)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_a_training_in_the_background_ends_with_the_reason(server):
    """As clients ask for it: the server starts a process of its own, whose end they look at."""
    requests.post(f"{server}/train/differseg", timeout=60).raise_for_status()
    task = finished(server)
    assert task["status"] == "ERROR"
    assert "Too few cases have a final label" in task["details"][-1]
    assert "Traceback" not in " ".join(task["details"])


@pytest.fixture(scope="module")
def slab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1, CT and PET of a patient as a PACS has them, a few slices each."""
    folder = tmp_path_factory.mktemp("slab")
    with zipfile.ZipFile(ROOT / "tests" / "data" / "sts_041_slab.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def pacs(slab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def find(name: str, package: str) -> Path:
        program = shutil.which(name, path="/usr/sbin:/usr/bin")
        assert program, f"install the Debian package {package}"
        return Path(program)

    with orthanc(find, tmp_path_factory.mktemp("orthanc")) as url:
        fill(url, [path for path in slab.rglob("*.dcm") if path.parent.name in ("MR_T1", "CT", "PET")])
        yield url


def test_a_pacs_is_served_series_by_series(pacs: str, slab: Path, tmp_path: Path):
    """The T1 of a study is open in the client; CT and PET of the same study are found by the rules of `cohort scan`."""
    t1 = str(pydicom.dcmread(next(slab.rglob("MR_T1/*.dcm")), stop_before_pixels=True).SeriesInstanceUID)
    environment = {
        "MONAI_LABEL_DICOMWEB_USERNAME": "reader",
        "MONAI_LABEL_DICOMWEB_PASSWORD": SECRET,
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "MR"}',
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # itkimage2segimage of dcmqi
    }
    with serving(tmp_path, pacs, {"set": "planes=[axial]"}, **environment) as url:
        following = requests.post(f"{url}/activelearning/random", json={}, timeout=60).json()
        answer = requests.post(f"{url}/infer/differseg?image={t1}", timeout=300)
        nobody = requests.post(f"{url}/infer/differseg?image=1.2.3", timeout=60)
        training = requests.post(f"{url}/train/differseg?run_sync=true", timeout=60)
    found = mask_of(answer, tmp_path)
    assert following["id"] == t1
    assert nobody.status_code != 200
    assert (training.status_code, "labels in a folder only" in training.text) == (400, True)
    assert b'"modalities": "t1+ct+pet"' in answer.content
    table, options = str(tmp_path / "cohort.csv"), ("--device", "cpu", "--set", "planes=[axial]")
    for words in (
        ["cohort", "scan", str(slab), "--out", table, "--modalities", "t1,ct,pet"],
        ["predict", "--bundle", str(BUNDLE), "--cohort", table, "--out", str(tmp_path / "out"), *options],
    ):
        assert CliRunner().invoke(app, words).exit_code == 0
    (file,) = (tmp_path / "out").glob("*/mask.nii.gz")
    own = nib.load(file)
    mask = np.asarray(own.dataobj)
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(np.asarray(found.dataobj), mask)
    np.testing.assert_allclose(found.affine, own.affine, atol=1e-5)
    if PICTURES:
        image = load_volume(slab / "MR_T1")
        background, spacing_mm = closest_ras(image[0].numpy(), np.asarray(image.affine))
        answered = closest_ras(np.asarray(found.dataobj), found.affine)[0]
        target = Path(PICTURES) / "monai_label.webp"
        save_overlay({"t1": background}, answered, target, spacing_mm=spacing_mm, title="STS_041, from MONAI Label")
