"""Presets overlay every bundle; templates become bundles, and the shipped ones of pictures are what templates give."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import verify_net_in_out
from typer.testing import CliRunner

from differseg_med.bundles.new import TEMPLATES, new_bundle
from differseg_med.bundles.workflows import BundleRun
from differseg_med.cli import app
from differseg_med.errors import CaseError
from differseg_med.losses import StructureLoss

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in (ROOT / "bundles").glob("*/configs/inference.yaml"))
CHANNELS = {"rgb": [3], "rgbd": [3, 1], "rgbt": [3, 1], "rgbflow": [3, 3], "rgbdt": [3, 1, 1]}
each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def opened(bundle: Path, configs: list[str], preset: str, tmp_path: Path, settings: tuple[str, ...] = ()):
    table = bundle / "sample" / "cohort.csv"
    workflow = BundleRun(bundle, [*configs, str(ROOT / "configs" / preset)], table, tmp_path, settings=settings).open()
    workflow.initialize()
    return workflow.parser


@each_bundle
def test_the_paper_s_settings_overlay_a_bundle(bundle, tmp_path):
    small = ("network_def::encoder=pvt_v2_b0", "pretrained=false", "max_epochs=4", "iterations=5")
    parser = opened(bundle, ["inference", "train"], "paper.yaml", tmp_path, small)
    network = parser.get_parsed_content("network")
    trained = {name for name, p in network.named_parameters() if name.startswith("encoder.") and p.requires_grad}
    assert trained
    assert all("prompt_learn" in name for name in trained)
    loss = parser.get_parsed_content("train::loss")
    assert isinstance(loss.loss, StructureLoss)
    assert loss.weights == (1, 1, 1, 1)
    schedule = parser.get_parsed_content("train::lr_scheduler")
    assert isinstance(schedule, torch.optim.lr_scheduler.CosineAnnealingLR)
    assert (schedule.T_max, schedule.base_lrs) == (20, [0.0005])
    assert parser.get_parsed_content("inferer").roi_size == (512, 512)


@each_bundle
@pytest.mark.parametrize("preset", ["paper.yaml", "cpu.yaml", "benchmark.yaml"])
def test_presets_overlay_inference(bundle, preset, tmp_path):
    small = ("network_def::encoder=pvt_v2_b0", "pretrained=false") if preset == "paper.yaml" else ()
    network = opened(bundle, ["inference"], preset, tmp_path, small).get_parsed_content("network_def")
    modalities = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text())["modalities"]
    assert network.num_modalities == len(modalities)


def test_the_benchmark_preset_stretches(tmp_path):
    bundle = ROOT / "bundles" / "pothole_rgbd_segmentation"
    for configs, expected in ((["inference", "evaluate"], False), (["inference", "evaluate", "benchmark.yaml"], True)):
        files = [str(ROOT / "configs" / c) if c.endswith(".yaml") else c for c in configs]
        workflow = BundleRun(bundle, files, bundle / "sample" / "cohort.csv", tmp_path).open()
        workflow.initialize()
        assert workflow.parser.get_parsed_content("evaluator").settings.stretch is expected


@pytest.mark.parametrize("template", CHANNELS)
def test_a_template_becomes_a_bundle(template, tmp_path):
    options = f"--template {template} --name my_task --folder {tmp_path}"
    result = CliRunner().invoke(app, ["new", *options.split()])
    assert result.exit_code == 0, result.output
    configs = tmp_path / "my_task" / "configs"
    content = yaml.safe_load((configs / "inference.yaml").read_text())
    assert content["in_channels"] == CHANNELS[template]
    assert content["reference"] == "rgb"
    image = json.loads((configs / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == sum(CHANNELS[template]) == len(image["channel_def"])
    assert not [path for path in (tmp_path / "my_task").rglob("*") if path.is_file() and "<<" in path.read_text()]
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
        n=2,
    )


def test_what_cannot_be_made_is_told(tmp_path):
    with pytest.raises(CaseError, match=r"no such template.*rgb, rgbd, rgbdt, rgbflow, rgbt"):
        new_bundle(TEMPLATES / "rgbx.yaml", tmp_path / "a")
    with pytest.raises(CaseError, match="already"):
        new_bundle(TEMPLATES / "rgb.yaml", tmp_path)
    with pytest.raises(CaseError, match="cannot be that of a bundle"):
        new_bundle(TEMPLATES / "rgb.yaml", tmp_path / "my task")


def components(content: dict) -> dict:
    """The entries that name a class or function, or overlay one."""
    return {name: value for name, value in content.items() if "_target_" in str(value) or name.startswith("+")}


@pytest.mark.parametrize(("name", "template"), [("pothole_rgbd", "rgbd"), ("davis_rgbflow", "rgbflow")])
def test_the_shipped_bundles_of_pictures_are_what_their_template_gives(name, template, tmp_path):
    """They differ in values, never in how a run is put together."""
    made = new_bundle(TEMPLATES / f"{template}.yaml", tmp_path / "made")
    for config in ("inference.yaml", "train.yaml", "evaluate.yaml"):
        folders = (made, ROOT / "bundles" / f"{name}_segmentation")
        ours, shipped = (components(yaml.safe_load((folder / "configs" / config).read_text())) for folder in folders)
        assert ours == shipped


def test_every_run_ends_with_an_exit_code_that_tells_of_its_cases():
    files = [*(ROOT / "bundles").glob("*/configs/*.yaml"), *TEMPLATES.glob("*/*.yaml")]
    ends = {path: re.findall(r"^finalize: (.*)$", path.read_text(), re.MULTILINE) for path in files}
    assert {tuple(found) for path, found in ends.items() if path.name == "train.yaml"} == {
        ("['$@train::trainer.finish()']",)
    }
    assert {tuple(found) for path, found in ends.items() if path.name == "inference.yaml"} == {
        ("[$@evaluator.finish()]",)
    }


def test_bundles_have_the_zoo_s_files(tmp_path):
    """logging.conf as MONAI's command reads it by itself, and the licences of the data, which only the owner knows."""
    made = new_bundle(TEMPLATES / "rgbd.yaml", tmp_path / "bundle")
    assert "Say where the training data come from" in (made / "docs" / "data_license.txt").read_text()
    for bundle in [made, *BUNDLES]:
        assert (bundle / "configs" / "logging.conf").read_text() == (TEMPLATES / "logging.conf").read_text()
        assert (bundle / "docs" / "data_license.txt").read_text().startswith("Third Party Licenses")
        assert "<<" not in (bundle / "docs" / "data_license.txt").read_text()
