"""Every bundle in the repository: a new bundle needs no new test code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out

from differseg_med.bundles.workflows import BundleRun
from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.errors import exit_code
from differseg_med.evaluation.baselines import baselines
from differseg_med.evaluation.evaluate import mask_file
from differseg_med.io.volumes import load_mask, load_volume

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in (ROOT / "bundles").glob("*/configs/inference.yaml"))
CONFIGS = (["inference"], ["inference", "evaluate"], ["inference", "train"])
MANDATORY = (
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)

pytestmark = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another working directory than the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(bundle: Path) -> ConfigParser:
    """The parsed inference configuration."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser["bundle_root"] = str(bundle)
    return parser


def metadata_of(bundle: Path) -> dict:
    """The content of metadata.json."""
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def test_has_the_files_of_a_bundle(bundle: Path) -> None:
    """The specification's mandatory files and metadata keys, and a card, are there."""
    for name in ("LICENSE", "configs/metadata.json", "docs/README.md", "models/model.pt", "sample/cohort.csv"):
        assert (bundle / name).is_file(), name
    metadata = metadata_of(bundle)
    assert [key for key in MANDATORY if key not in metadata] == []
    assert metadata["version"] in metadata["changelog"]


def test_configurations_name_only_what_they_may(bundle: Path) -> None:
    """No code in a bundle: targets are our factories, MONAI's or torch's; expressions have no import and no lambda."""
    assert not list(bundle.rglob("*.py"))
    for file in (bundle / "configs").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, file.name
        for line in text.splitlines():
            assert "lambda" not in line
            assert "import " not in line
            if "_target_:" in line:
                target = line.split("_target_:")[1].strip().split(",")[0].rstrip("}")
                assert target.startswith(("differseg_med.bundle.", "torch.")) or "." not in target, target


@pytest.mark.parametrize("configs", CONFIGS, ids="+".join)
def test_workflow_has_the_properties_that_monai_looks_for(bundle: Path, configs: list[str], elsewhere: Path) -> None:
    """check_properties() finds every required id, from another working directory."""
    modalities = tuple(config_of(bundle)["modalities"])
    cases = read_cohort(bundle / "sample" / "cohort.csv", modalities).cases
    splits = [replace(case, split=split) for case, split in zip(cases, ("train", "validation"))]
    write_cohort(elsewhere / "cohort.csv", modalities, splits)
    workflow = BundleRun(bundle, configs, elsewhere / "cohort.csv", elsewhere / "out").open()
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_returns_what_the_metadata_says(bundle: Path, elsewhere: Path) -> None:
    """MONAI's verify_net_in_out passes, and the channels are those of the network."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
        device="cpu",
        n=2,
    )
    parser, formats = config_of(bundle), metadata_of(bundle)["network_data_format"]
    network = parser.get_parsed_content("network_def")
    image = formats["inputs"]["image"]
    assert image["num_channels"] == sum(network.in_channels) == len(image["channel_def"])
    names = [name for name, count in zip(parser["modalities"], network.in_channels) for _ in range(count)]
    assert [text.split()[0] for text in image["channel_def"].values()] == names


def test_weights_are_small_plain_tensors(bundle: Path) -> None:
    """model.pt loads with weights_only and stays under 25 MB."""
    path = bundle / "models" / "model.pt"
    assert path.stat().st_size <= 25e6
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_exports_to_torchscript_with_equal_outputs(bundle: Path, elsewhere: Path) -> None:
    """MONAI's ckpt_export works, and the exported network computes the same."""
    path = elsewhere / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
        key_in_ckpt="",
    )
    parser = config_of(bundle)
    network = parser.get_parsed_content("network").cpu()
    channels = sum(network.in_channels)
    x = torch.randn(2, channels, 64, 96, generator=torch.Generator().manual_seed(0))
    x[1, : channels // 3] = 0  # one modality absent in one sample
    with torch.no_grad():
        expected, exported = network(x), torch.jit.load(path)(x)
    assert exported.shape == expected.shape == (2, 1, 64, 96)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)


def test_segments_its_sample_better_than_the_baselines(bundle: Path, elsewhere: Path) -> None:
    """The whole run on the shipped patients, from another directory: files, grids and a score above the baselines."""
    table = bundle / "sample" / "cohort.csv"
    modalities = tuple(config_of(bundle)["modalities"])
    assert exit_code(BundleRun(bundle, ["inference", "evaluate"], table, elsewhere / "out").run) == 0
    metrics = pd.read_csv(elsewhere / "out" / "metrics.csv").set_index("case_id")
    cases = read_cohort(table, modalities).cases
    naive = [max(row["dice"] for row in baselines(case).values()) for case in cases]
    assert metrics.dice.mean() > float(np.mean(naive))
    for case in cases:
        mask = load_mask(mask_file(elsewhere / "out", case.case_id))
        reference = load_volume(case.images[config_of(bundle)["reference"]])
        assert mask.shape == (1, *reference.shape[1:])
        assert set(mask.unique().tolist()) == {0, 1}
        np.testing.assert_allclose(mask.affine, reference.affine, atol=1e-4)
