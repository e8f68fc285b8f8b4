"""A real server of MONAI Label in an environment of its own serves a bundle: run by `make test-label`."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from support.orthanc import SECRET, fill, free_port, orthanc, wait_for
from support.synthetic import BUNDLE, OBLIQUE, write_case
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.cli import app
from differseg_med.io.volumes import load_volume
from differseg_med.reports.overlay import closest_ras, save_overlay

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("DIFFERSEG_LABEL_PYTHON", "")
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


@contextmanager
def serving(folder: Path, studies: str | Path, options: dict[str, object], **environment: str) -> Iterator[str]:
    """A server of MONAI Label on this machine; its address."""
    if not PYTHON:
        pytest.fail("DIFFERSEG_LABEL_PYTHON is not set: run make test-label")
    app, port = shutil.copytree(ROOT / "monailabel", folder / "app"), free_port()  # the server makes folders in it
    words = ["start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1", "--port", str(port)]
    given = {"bundle": BUNDLE, "python": sys.executable, "device": "cpu", **options}
    conf = [word for name, value in given.items() for word in ("--conf", name, str(value))]
    command = [PYTHON, "-m", "monailabel.main", *words, *conf]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        wait_for(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(images, expected, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, images["t1"].parent, {"set": f"threshold={expected[2]}"}) as url:
        yield url


def test_the_server_gives_the_mask_of_predict_voxel_for_voxel(server, expected, tmp_path):
    """T1 and PET are found by their names, the CT is missing."""
    answer = requests.post(f"{server}/infer/differseg?image=p01_t1&output=image", timeout=300)
    assert answer.status_code == 200, answer.text[-500:]
    (tmp_path / "mask.nii").write_bytes(gzip.decompress(answer.content))
    found = nib.load(tmp_path / "mask.nii")
    assert 0 < expected[0].mean() < 1
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected[0])
    np.testing.assert_allclose(found.affine, expected[1], atol=1e-5)


def test_a_mask_lies_on_the_image_that_is_open(server, images, tmp_path):
    """With the PET open the mask has its grid; the answer says what it was made from."""
    answer = requests.post(f"{server}/infer/differseg?image=p01_pet", timeout=300)
    assert answer.status_code == 200, answer.text[-500:]
    assert b'"modalities": "t1+pet"' in answer.content
    start = answer.content.index(b"\x1f\x8b\x08")
    (tmp_path / "mask.nii").write_bytes(gzip.decompress(answer.content[start : answer.content.rindex(b"\r\n--")]))
    found, pet = nib.load(tmp_path / "mask.nii"), nib.load(images["pet"])
    assert found.shape == pet.shape
    np.testing.assert_allclose(found.affine, pet.affine, atol=1e-5)


def test_info_names_one_image_per_case_and_value_1(server):
    info = requests.get(f"{server}/info/", timeout=60).json()
    assert set(info["models"]["differseg"]["labels"].values()) == {1}
    assert info["datastore"]["total"] == 1
    following = requests.post(f"{server}/activelearning/random", json={}, timeout=60).json()
    assert following["id"] == "p01_t1"


def test_what_is_not_done_is_said(server):
    for path, status, words in (
        ("infer/differseg?image=nobody", 404, "no such image"),
        ("train/differseg?run_sync=true", 400, "differseg-med train"),
    ):
        answer = requests.post(f"{server}/{path}", timeout=60)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_a_training_in_the_background_ends_with_the_reason(server):
    """As clients ask for it: the server starts a process of its own, whose end they look at."""
    requests.post(f"{server}/train/differseg", timeout=60).raise_for_status()
    end = time.monotonic() + 240
    while (task := requests.get(f"{server}/train/", timeout=60).json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < end
        time.sleep(1)
    assert task["status"] == "ERROR"
    assert "differseg-med train" in " ".join(task["details"])


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
    assert following["id"] == t1
    assert answer.status_code == 200, answer.text[-500:]
    assert nobody.status_code != 200
    assert b'"modalities": "t1+ct+pet"' in answer.content
    start = answer.content.index(b"\x1f\x8b\x08")
    (tmp_path / "mask.nii").write_bytes(gzip.decompress(answer.content[start : answer.content.rindex(b"\r\n--")]))
    table, options = str(tmp_path / "cohort.csv"), ("--device", "cpu", "--set", "planes=[axial]")
    for words in (
        ["cohort", "scan", str(slab), "--out", table, "--modalities", "t1,ct,pet"],
        ["predict", "--bundle", str(BUNDLE), "--cohort", table, "--out", str(tmp_path / "out"), *options],
    ):
        assert CliRunner().invoke(app, words).exit_code == 0
    (file,) = (tmp_path / "out").glob("*/mask.nii.gz")
    found, own = nib.load(tmp_path / "mask.nii"), nib.load(file)
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
