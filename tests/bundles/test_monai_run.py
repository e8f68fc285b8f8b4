"""``monai.bundle run``, which judges nothing itself: names that nothing reads, and cases that cannot be read."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow, run
from support.synthetic import BUNDLE, ROOT, SMALL, row_of, write_case, write_table

from differseg_med.bundles.failures import explained

PAPER = {"network_def::encoder": "tf_efficientnet_lite0", "network_def::fusion": "dpf", "network_def::decoder": "fgd"}
"""Here the whole network is trained; other trainings of tests have one of fewer parts."""
TINY = {**SMALL, **PAPER, "batch_size": 2, "iterations": 1, "max_epochs": 1}


def monai_run(table: Path, out: Path, *configs: str, **overrides: Any) -> None:
    files = [str(BUNDLE / "configs" / f"{name}.yaml") for name in ("inference", *configs)]
    given = {"bundle_root": str(BUNDLE), "device": "$torch.device('cpu')", "logging_file": False, **overrides}
    run(config_file=files, cohort=str(table), output_dir=str(out), **given)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two cases to train, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = [("good", {}), ("broken", {})]
    rows = [
        row_of(c, write_case(folder / c, seed=i), folder / "cohort.csv", split="train")
        for i, (c, _) in enumerate(cases)
    ]
    (folder / "broken" / "ct.nii.gz").write_bytes(b"no image")
    return write_table(folder / "cohort.csv", rows)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("split", "expected --dataset::split"),
        ("flip", "expected --inferer::flip"),
        ("treshold_ml", "Leave it out"),
        ("dataset_dir", "Leave it out"),
    ],
)
def test_a_name_that_nothing_reads_is_refused(table, tmp_path, name, instead):
    with pytest.raises(Exception, match="cohort_dataset") as caught:
        monai_run(table, tmp_path / "out", **{name: "test"})
    found = explained(caught.value)
    assert f"--{name}: nothing in this run reads" in str(found)
    assert instead in str(found)
    assert not (tmp_path / "out").exists()


def test_names_of_a_file_of_arguments_are_looked_at_too(table, tmp_path):
    file = tmp_path / "arguments.yaml"
    file.write_text(yaml.safe_dump({"treshold_ml": 0.4}))
    with pytest.raises(Exception, match="cohort_dataset") as caught:
        monai_run(table, tmp_path / "out", args_file=str(file))
    assert "--treshold_ml: nothing in this run reads" in str(explained(caught.value))


def test_a_training_without_a_case_that_cannot_be_read_ends_with_an_error(table, tmp_path):
    """As a prediction does: the others are done, and the exit code tells."""
    with pytest.raises(SystemExit, match="trained without 1 of 2 cases, which could not be read: broken") as caught:
        monai_run(table, tmp_path, "train", **TINY)
    assert isinstance(caught.value.code, str)  # which Python prints, and ends with 1
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("files", [["train"], ["evaluate"], ["train", "inference"], ["evaluate", "inference"]])
def test_an_overlay_alone_or_in_front_says_which_file_it_needs_with_the_command(files):
    configs = BUNDLE / "configs"
    with pytest.raises(Exception, match=r"differseg_med\.bundle\.overlay") as caught:
        run(config_file=[str(configs / f"{name}.yaml") for name in files], bundle_root=str(BUNDLE))
    told = str(explained(caught.value))
    assert "expected inference.yaml before it" in told
    assert told.endswith(
        f"Run python -m monai.bundle run --config_file \"['{configs}/inference.yaml','{configs}/{files[0]}.yaml']\""
        f" --meta_file {configs}/metadata.json --bundle_root {BUNDLE}"
    )
    assert "\n" not in told


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_a_preset_alone_says_that_it_needs_a_bundle(preset):
    with pytest.raises(Exception, match=r"differseg_med\.bundle\.overlay") as caught:
        run(config_file=str(preset))
    told = str(explained(caught.value))
    assert f"{preset.name}: this configuration changes others and does not run without them" in told
    assert "['BUNDLE/configs/inference.yaml'," in told
    assert f",'{preset}']\" --meta_file BUNDLE/configs/metadata.json --bundle_root BUNDLE" in told
    assert "\n" not in told


def test_logs_as_the_bundle_says():
    """Without --logging_file MONAI takes the bundle's; it replaces the root logger's handlers, so they are put back."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        ConfigWorkflow(str(BUNDLE / "configs" / "inference.yaml"), workflow_type="infer")
        (handler,) = root.handlers
        line = handler.format(logging.LogRecord("x", logging.INFO, "", 0, "told", None, None))
    finally:
        root.handlers[:], root.level = before, level
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ - x - INFO - told", line)
