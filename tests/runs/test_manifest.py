"""What made a folder's results: told whole, compared by value, read back."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, ScaleIntensityd
from torch import nn

from differseg_med.errors import CaseError
from differseg_med.inferers import SliceWindowInferer
from differseg_med.runs.describe import described, digest
from differseg_med.runs.manifest import (
    FINISHED,
    STOPPED,
    Step,
    configured,
    list_differences,
    read_steps,
    recording,
    write_steps,
)
from differseg_med.runs.status import status_lines
from differseg_med.transforms.pipelines import preprocessing, training_samples
from differseg_med.transforms.restoring import postprocessing

MODALITIES = {"t1": {"kind": "mr", "percentile": 99}, "ct": {"kind": "ct", "window": [-160, 240]}}


def changed(make, **change) -> set[str]:
    """Settings that a change of an argument changes."""
    before, after = described(it=make()), described(it=make(**change))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def network(width: int = 2, value: float = 0.0) -> nn.Module:
    made = nn.Linear(width, 1)
    nn.init.constant_(made.weight, value)
    nn.init.zeros_(made.bias)
    return made


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (partial(postprocessing, 0.35), {"min_component_ml": 0.5}),
        (partial(postprocessing, largest_only=False), {"threshold": 0.36}),
        (partial(postprocessing, 0.35), {"largest_only": True}),
        (partial(preprocessing, MODALITIES, "t1"), {"pixdim": (1.0, 2.0, 2.0)}),
        (partial(preprocessing, MODALITIES, "t1"), {"spatial_size": (64, 64)}),
        (partial(preprocessing, reference="t1"), {"modalities": MODALITIES}),
        (partial(SliceWindowInferer, (96, 96)), {"num_slices": 5}),
        (partial(SliceWindowInferer, (96, 96)), {"slice_step": 2}),
        (partial(SliceWindowInferer, (96, 96)), {"planes": ("axial", "coronal")}),
        (partial(SliceWindowInferer, (96, 96)), {"flip": True}),
        (partial(training_samples, [3], (32, 32)), {"zoom": (0.6, 1.3)}),
        (partial(training_samples, [3], (32, 32)), {"rotate_degrees": 90.0}),
        (partial(training_samples, [3], (32, 32)), {"foreground_prob": 0.6}),
        (partial(training_samples, [3], (32, 32)), {"modality_dropout": 0.1}),
        (network, {"value": 1.0}),
        (network, {"width": 3}),
        (lambda keys="a": Compose([ScaleIntensityd(keys)]), {"keys": "b"}),
        (lambda prob=0.1: Compose([RandFlipd("a", prob)]), {"prob": 0.2}),
    ],
)
def test_every_setting_of_a_pipeline_is_told(make, change):
    if "modalities" in change:
        other = {**MODALITIES, "ct": {"kind": "ct", "window": [-160, 250]}}
        assert described(it=make(modalities=MODALITIES)) != described(it=make(modalities=other))
        return
    assert changed(make) == set()
    assert changed(make, **change) != set()


def test_a_description_does_not_depend_on_what_was_done_before():
    samples = training_samples([3], (32, 32), planes=("axial", "coronal"))
    before = described(samples=samples)
    samples.set_random_state(7)
    item = {"image": torch.rand(1, 20, 20, 20), "label": torch.ones(1, 20, 20, 20)}
    samples(item)
    assert described(samples=samples) == before


def test_digests_tell_values_shapes_and_types_apart():
    values = [
        np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32), torch.ones(4), [1, 2], "1", 1,
        None,
        {"a": torch.zeros(2)}, {"b": torch.zeros(2)},
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)
    assert digest(torch.zeros(4)) == digest(np.zeros(4, np.float32))
    assert digest(torch.zeros(4, dtype=torch.bfloat16)) != digest(torch.ones(4, dtype=torch.bfloat16))


def test_differences_name_the_entry_and_both_values():
    old, new = Step.now({"a.lr": "0.0002", "b": "1"}), Step.now({"a.lr": "0.5", "c": "2"})
    assert old.differences(new) == ["a.lr: was 0.0002, is 0.5", "b: was 1, is not there", "c: was not there, is 2"]
    assert old.differences(Step.now(old.settings)) == []
    with configured({"learning_rate": 0.0002, "device": "cpu", "network": {"_target_": "x"}}):
        old = Step.now({"a.lr": "0.0002"})
    with configured({"learning_rate": 0.5, "device": "cuda", "network": {"_target_": "y"}}):
        new = Step.now({"a.lr": "0.5"})
    assert old.differences(new) == ["learning_rate: was 0.0002, is 0.5"]  # in the user's words
    assert list_differences([f"x{n}" for n in range(10)]).endswith("x7; and 2 more")


def test_other_code_is_a_difference():
    old, new = Step.now({}), Step.now({})
    new.software["code"] = "0123"
    assert len(old.differences(new)) == 1
    assert "is 0123" in old.differences(new)[0]


def test_written_and_read_back(tmp_path):
    step = Step.now({"x": "1"}, {"a": {"t1": "s"}}, {"bids": ""})
    with recording(tmp_path, "predict", step):
        assert read_steps(tmp_path)["predict"] == step
    assert read_steps(tmp_path)["predict"].state == FINISHED
    with pytest.raises(KeyboardInterrupt), recording(tmp_path, "evaluate", step):
        raise KeyboardInterrupt
    assert {name: s.state for name, s in read_steps(tmp_path).items()} == {"predict": FINISHED, "evaluate": STOPPED}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"program": "other"}', '{"program": "differseg_med"}'])
def test_other_files_of_that_name_are_no_manifests(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert read_steps(tmp_path) == {}
    with pytest.raises(CaseError, match=r"there is no run\.json of differseg_med here"):
        status_lines(tmp_path)


def test_later_versions_may_add_fields(tmp_path):
    write_steps(tmp_path, {"predict": Step.now({"x": "1"})})
    content = json.loads((tmp_path / "run.json").read_text())
    content["steps"]["predict"]["mood"] = "good"
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read_steps(tmp_path)["predict"].settings == {"x": "1"}


def test_no_folder_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/differseg-med", "predict", "--cohort", "/data/Doe_Jane/cohort.csv"])
    with configured({"cohort": "Doe_Jane.csv", "x": ["/data/Doe_Jane/y"], "_meta_x": 1}):
        write_steps(tmp_path, {"predict": Step.now({})})
    text = (tmp_path / "run.json").read_text()
    assert "differseg-med predict --cohort PATH" in text
    assert not [word for word in ("/data", "/usr", "Doe") if word in text]


def test_status(tmp_path):
    step = Step.now({"threshold": "0.5"}, {"a": {}, "b": {}})
    write_steps(tmp_path, {"predict": step})
    (tmp_path / "summary.csv").write_text("case_id,status\na,done\nb,failed\n")
    (tmp_path / "earlier_runs" / "2026-01-01T00-00-00").mkdir(parents=True)
    lines = status_lines(tmp_path, settings=True)
    assert lines[0].startswith("predict: was killed, started 20")
    assert "  threshold: 0.5" in lines
    assert lines[-2:] == ["summary.csv: 1 done, 1 failed", "earlier_runs: 2026-01-01T00-00-00"]
