"""A real server of MONAI Label trains on the labels that clients have saved: run by `make test-label`."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from support.label_server import finished, mask_of, serving
from support.synthetic import BUNDLE, write_case

import differseg_med as ds
from differseg_med.runs.lock import holder

SHORT = {"max_epochs": 1, "iterations": 2, "train_batch_size": 2, "val_split": 0.5, "learning_rate": 0.1}
"""Two steps, which change the weights a lot."""


@dataclass(frozen=True)
class Server:
    """A server with two labelled cases: its address, and the folders of images and models."""

    url: str
    images: Path
    models: Path

    def trainings(self) -> list[Path]:
        """Folders of its trainings, the last one at the end."""
        return sorted(path.parent for path in self.models.glob("*/*/cohort.csv"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Patient ruth has T1 and PET and her label on the T1, naomi CT and PET and her label on the CT."""
    images, folder = tmp_path_factory.mktemp("studies"), tmp_path_factory.mktemp("server")
    labels = {}
    for seed, (case, names) in enumerate({"ruth": ("t1", "pet"), "naomi": ("ct", "pet")}.items()):
        made = write_case(tmp_path_factory.mktemp("case"), seed=seed)
        for name in names:
            shutil.copy(made[name], images / f"{case}_{name}.nii.gz")
        labels[f"{case}_{names[0]}"] = made["label"]
    with serving(folder, images, {"set": "planes=[axial]"}) as url:
        for image, label in labels.items():
            with label.open("rb") as file:
                where = f"{url}/datastore/label?image={image}&tag=final"
                requests.put(where, files={"label": file}, timeout=60).raise_for_status()
        yield Server(url, images, folder / "app" / "model")


def texts_of(folder: Path) -> str:
    """Names and texts of all files in a folder, but not where its links lead."""
    files = [path for path in folder.rglob("*") if not path.is_symlink()]
    names = [str(path.relative_to(folder)) for path in files]
    return " ".join([*names, *(path.read_bytes().decode("latin-1") for path in files if path.is_file())])


def test_a_training_uses_the_final_labels_and_keeps_the_weights_of_infer(server: Server):
    requests.post(f"{server.url}/train/differseg", json=SHORT, timeout=60).raise_for_status()
    task = finished(server.url)
    said = "\n".join(task["details"])
    assert task["status"] == "DONE", said
    result: dict[str, Any] = json.loads(said.split("Result: ")[1])
    (training,) = server.trainings()
    with (training / "cohort.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    had = {tuple(name for name in ("t1", "ct", "pet", "label") if row[name]) for row in rows}
    assert had == {("t1", "pet", "label"), ("ct", "pet", "label")}
    assert result["cases"] == {"train": 1, "validation": 1}
    with (training / "run" / "log.csv").open(newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert result["val_mean_dice"] == float(epoch["val_dice"])
    assert f"validation Dice {result['val_mean_dice']:.3f}" in said
    assert "initial_weights: 1139 of 1139 tensors are from model.pt" in said
    assert not result["published"]
    assert Path(result["weights"]).is_file()
    assert not list(server.models.rglob("published.json"))
    assert requests.get(f"{server.url}/info/", timeout=60).json()["train_stats"]["differseg"]["total_epochs"] == 1
    for name in ("ruth", "naomi"):
        assert name not in said + texts_of(training)


def test_infer_uses_the_new_weights_if_that_was_asked_for(server: Server, tmp_path: Path):
    request = {**SHORT, "publish": True}
    answer = requests.post(f"{server.url}/train/differseg?run_sync=true", json=request, timeout=300)
    assert answer.status_code == 200, answer.text
    assert answer.json()["published"]
    answer = requests.post(f"{server.url}/infer/differseg?image=ruth_t1", timeout=300)
    found = np.asarray(mask_of(answer, tmp_path).dataobj)
    training = server.trainings()[-1]
    assert f'"weights": "{training.name}"'.encode() in answer.content
    files = {name: server.images / f"ruth_{name}.nii.gz" for name in ("t1", "pet")}
    settings = {"planes": ["axial"]}
    new = ds.segment(BUNDLE, device="cpu", settings={**settings, "checkpoint": str(training / "run/best.pt")}, **files)
    np.testing.assert_array_equal(found, np.asarray(new.mask))
    old = ds.segment(BUNDLE, device="cpu", settings=settings, **files)
    assert not np.array_equal(found, np.asarray(old.mask))


def test_a_training_that_is_stopped_leaves_no_process(server: Server):
    before = server.trainings()
    requests.post(f"{server.url}/train/differseg", json={**SHORT, "max_epochs": 1000}, timeout=60).raise_for_status()
    end = time.monotonic() + 240
    while not (runs := [path / "run" for path in server.trainings() if path not in before and holder(path / "run")]):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert requests.delete(f"{server.url}/train/", timeout=60).json()["status"] == "STOPPED"
    while holder(runs[0]):  # the system lets go of the lock when the process has ended
        assert time.monotonic() < end
        time.sleep(0.1)
    assert finished(server.url)["status"] == "STOPPED"
