"""A real server of MONAI Label in an environment of its own serves a bundle: run by `make test-label`."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from support.synthetic import BUNDLE, OBLIQUE, write_case

import differseg_med as ds

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("DIFFERSEG_LABEL_PYTHON", "")


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
    if not PYTHON:
        pytest.fail("DIFFERSEG_LABEL_PYTHON is not set: run make test-label")
    folder = tmp_path_factory.mktemp("server")
    app = shutil.copytree(ROOT / "monailabel", folder / "app")  # the server makes folders in it
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["start_server", "--app", app, "--studies", images["t1"].parent, "--host", "127.0.0.1", "--port", str(port)]
    options = {"bundle": BUNDLE, "python": sys.executable, "device": "cpu", "set": f"threshold={expected[2]}"}
    conf = [word for name, value in options.items() for word in ("--conf", name, str(value))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PYTHON, "-m", "monailabel.main", *words, *conf], stdout=log, stderr=log)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "log").read_text()[-3000:])
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


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
