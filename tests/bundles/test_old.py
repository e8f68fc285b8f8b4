"""Bundles made before configurations became thin go on working, and the thin ones say the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from support.synthetic import ROOT

from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import CaseError
from differseg_med.networks import DifferSeg

OLD = ROOT / "tests" / "data" / "old_bundles"
SMALL = ("network_def::encoder=test_resnet", "network_def::decoder_channels=[8, 8, 8, 8]")


@pytest.fixture(params=["sts_petctmr", "pothole_rgbd"])
def pair(request, tmp_path) -> tuple[Path, Path]:
    """A bundle as it was, and as it is, with weights of a tiny network in place of its own."""
    now = ROOT / "bundles" / f"{request.param}_segmentation"
    made = []
    for name, configs in (("old", OLD / request.param), ("new", now / "configs")):
        folder = tmp_path / name
        shutil.copytree(configs, folder / "configs")
        shutil.copy(now / "configs" / "metadata.json", folder / "configs")
        (folder / "models").mkdir()
        for file in (now / "models").glob("*.json"):
            shutil.copy(file, folder / "models")
        channels = (3, 1) if request.param == "pothole_rgbd" else (3, 3, 3)
        torch.manual_seed(0)  # both have the same weights
        network = DifferSeg(in_channels=channels, encoder="test_resnet", decoder_channels=(8, 8, 8, 8))
        torch.save(network.state_dict(), folder / "models" / "model.pt")
        made.append(folder)
    return made[0], made[1]


def described(value: object, depth: int = 3) -> object:
    """Attributes of an object that are numbers, texts or lists of them, nested."""
    if isinstance(value, (bool, int, float, str, type(None), Path)):
        return str(value).replace("/old", "").replace("/new", "")
    if isinstance(value, (list, tuple)):
        return [described(part, depth) for part in value]
    if isinstance(value, dict):
        return {str(key): described(part, depth) for key, part in value.items()}
    if depth and not isinstance(value, (torch.nn.Module, torch.Tensor)) and hasattr(value, "__dict__"):
        return {type(value).__name__: {k: described(v, depth - 1) for k, v in vars(value).items() if k != "R"}}
    return type(value).__name__


def parts(bundle: Path, configs: tuple[str, ...], out: Path, settings: tuple[str, ...] = SMALL) -> dict[str, object]:
    workflow = BundleRun(bundle, configs, table_of(bundle), out, {"device": "cpu"}, settings).open()
    workflow.initialize()
    assert workflow.check_properties() == []
    return {
        n: workflow.parser.get_parsed_content(n) for n in ("preprocessing", "inferer", "postprocessing", "evaluator")
    }


def table_of(bundle: Path) -> Path:
    name = "pothole_rgbd" if "spatial_size" in (bundle / "configs" / "inference.yaml").read_text() else "sts_petctmr"
    return ROOT / "bundles" / f"{name}_segmentation" / "sample" / "cohort.csv"


def test_evaluation_is_put_together_as_before(pair, tmp_path):
    old, new = (parts(bundle, ("inference", "evaluate"), tmp_path / "out") for bundle in pair)
    if hasattr(old["inferer"], "look_every"):  # not there before: 1 computes every slice, as then
        for name, value in {"look_every": 1, "decide_at": None}.items():
            assert getattr(old["inferer"], name) == value
            setattr(new["inferer"], name, value)
    for name in ("preprocessing", "inferer", "postprocessing"):
        assert described(old[name]) == described(new[name]), name
    for name in ("evaluate", "settings", "amp", "reference", "output_dir", "writers"):
        assert described(getattr(old["evaluator"], name)) == described(getattr(new["evaluator"], name)), name
    assert new["evaluator"].evaluate is True
    states = [part["evaluator"].network.state_dict() for part in (old, new)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_options_act_on_both(pair, tmp_path):
    for bundle in pair:
        settings = ("threshold=0.7", *SMALL)
        options = {
            "withhold": ["depth" if "spatial_size" in (bundle / "configs/inference.yaml").read_text() else "pet"]
        }
        run = BundleRun(
            bundle, ("inference",), table_of(bundle), tmp_path / "out", {**options, "resume": True}, settings
        )
        get = run.open().parser.get_parsed_content
        assert not {name for case in get("dataset").data for name in case.images} & set(options["withhold"])
        assert described(get("postprocessing")).__str__().count("0.7")
        with pytest.raises(CaseError, match="not understood"):
            BundleRun(bundle, ("inference",), table_of(bundle), tmp_path, {}, ("treshold=1",)).open()


def test_a_training_is_put_together_as_before(pair):
    """By what the files say: 24 epochs of 50 steps cost too much here."""
    sides = []
    for bundle in pair:
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / f"{name}.yaml") for name in ("inference", "train")])
        text = json.loads(json.dumps(parser.config))
        sides.append(
            {name: text.get(name) for name in ("max_epochs", "iterations", "batch_size", "val_interval", "seed")}
        )
        encoder = text["network_def"].get("encoder_weights")
        assert encoder == "package"
    assert sides[0] == sides[1]


def test_amp_of_an_old_training_is_refused_and_used_by_a_new_one(pair, tmp_path):
    old, new = pair
    with pytest.raises(CaseError, match="--set amp: nothing in this run reads 'amp'"):
        BundleRun(old, ("inference", "train"), table_of(old), tmp_path, {}, ("amp=true",)).open()
    workflow = BundleRun(new, ("inference", "train"), table_of(new), tmp_path, {}, ("amp=true",)).open()
    assert yaml.safe_load((new / "configs" / "train.yaml").read_text())["train"]["trainer"]["amp"] == "@amp"
    assert "train::trainer::amp" in workflow.configuration.read_entries()
