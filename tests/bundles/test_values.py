"""Paths and settings reach MONAI's configuration as the values that they are, whatever they are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from differseg_med.bundles.values import as_device, as_value
from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import CaseError

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "sts_petctmr_segmentation"
NAMES = (
    "study #2",
    "$out",
    "%out",
    "@eaDir",
    "@device",
    "$__import__('os').system('touch ran')",
    "$import os",
    "%evil.yaml::x",
    "a@::b",
    'it\'s "quoted" \\n',
    "Größe 症例",
    "#",
    "::",
)


def parsed(value: object) -> object:
    """What a component is given for a value: MONAI's parser, with ids that references could find."""
    parser = ConfigParser(
        {"device": "cpu", "value": value, "joined": "$@value + '/models'", "used": {"deep": ["@value"]}}
    )
    found = parser.get_parsed_content("used")["deep"][0]
    if isinstance(found, str):
        assert parser.get_parsed_content("joined") == f"{found}/models"
    return found


@given(st.text())
def test_any_text_is_given_back(text):
    assert parsed(as_value(text)) == text


@pytest.mark.parametrize("name", NAMES)
def test_a_name_reaches_the_run_and_runs_nothing(name, tmp_path, monkeypatch):
    """The table, the output and the checkpoint may have any name; nothing is evaluated."""
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    table = Path(shutil.copy(BUNDLE / "sample" / "cohort.csv", folder / "cohort.csv"))
    settings = [f"checkpoint={as_yaml(name)}", f"planes=[{as_yaml(name)}]"]
    workflow = BundleRun(BUNDLE, ["inference"], table, folder / "out", {"split": name}, settings).open()
    get = workflow.parser.get_parsed_content
    assert (get("cohort"), get("output_dir")) == (f"{name}/cohort.csv", f"{name}/out")
    assert (get("checkpoint"), get("planes"), get("dataset::split")) == (name, [name], name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def as_yaml(text: str) -> str:
    """The text in YAML's single quotes."""
    return "'" + text.replace("'", "''") + "'"


def test_a_bundle_may_lie_anywhere(tmp_path):
    bundle = tmp_path / "bundle #1 @home $HOME"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    get = BundleRun(bundle, ["inference"], BUNDLE / "sample" / "cohort.csv", tmp_path).open().parser.get_parsed_content
    assert get("checkpoint") == f"{bundle}/models/model.pt"


def test_devices():
    assert parsed(as_device("cuda:1")) == torch.device("cuda:1")
    for name in ("gpu", "cpu') or __import__('os').system('touch ran", "", "cuda:x", "$x"):
        with pytest.raises(CaseError, match=r"no such device .*cpu, cuda"):
            as_device(name)


@pytest.mark.parametrize(
    "setting",
    [
        "network_def={_target_: os.system, command: ls}",
        "network_def::_target_=os.system",
        "planes=[{_target_: os.system}]",
        "planes=[axial",
        "planes=!!python/object/apply:os.system [ls]",
    ],
)
def test_a_setting_is_no_component(setting, tmp_path):
    with pytest.raises(CaseError):
        BundleRun(BUNDLE, ["inference"], BUNDLE / "sample" / "cohort.csv", tmp_path, settings=[setting]).open()
