"""Walk a bundle: what the bundles of the repository and those that a plan makes must both have; helpers, not tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from torch import Tensor

from differseg_med.bundles.workflows import BundleRun
from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.networks import DifferSeg

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
SHAPES = ((1, 64, 64), (3, 32, 96))
"""Batch, height, width."""

PLANNED = ("LICENSE", "configs/metadata.json", "docs/README.md", "docs/PLAN.md", "docs/fingerprint.json")
"""Files of a bundle that a plan made."""

CONFIGS = (["inference"], ["inference", "evaluate"], ["inference", "train"])


def walk_planned(
    bundle: Path, table: Path, folder: Path, weights: Path | None = None, configs: Sequence[list[str]] = CONFIGS
) -> None:
    """All of the walk that a bundle can pass without a sample.

    Args:
        bundle: folder that a plan wrote.
        table: cohort table of at least two cases that can be read.
        folder: for what is written, new.
        weights: of a training of it, put into a copy of the bundle and exported; None for no export.
        configs: whose properties are looked at; without weights, those of a training only.
    """
    walk_files(bundle, PLANNED)
    walk_names(bundle)
    walk_network(bundle)
    if weights is not None:
        bundle = shutil.copytree(bundle, folder / bundle.name)
        (bundle / "models").mkdir(exist_ok=True)
        shutil.copy(weights, bundle / "models" / "model.pt")
        walk_export(bundle, folder)
    for number, names in enumerate(configs):
        (folder / str(number)).mkdir(parents=True)
        walk_properties(bundle, names, table, folder / str(number))


def config_of(bundle: Path) -> ConfigParser:
    """The parsed inference configuration."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser["bundle_root"] = str(bundle)
    return parser


def metadata_of(bundle: Path) -> dict:
    """The content of metadata.json."""
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def walk_files(bundle: Path, names: tuple[str, ...]) -> None:
    """The files and the specification's mandatory metadata keys are there."""
    for name in names:
        assert (bundle / name).is_file(), name
    metadata = metadata_of(bundle)
    assert [key for key in MANDATORY if key not in metadata] == []
    assert metadata["version"] in metadata["changelog"]


def walk_names(bundle: Path) -> None:
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


def walk_properties(bundle: Path, configs: list[str], table: Path, folder: Path) -> None:
    """check_properties() finds every id that MONAI requires."""
    modalities = tuple(config_of(bundle)["modalities"])
    cases = read_cohort(table, modalities).cases
    splits = [replace(case, split=split) for case, split in zip(cases, ("train", "validation"))]
    write_cohort(folder / "cohort.csv", modalities, splits)
    workflow = BundleRun(bundle, configs, folder / "cohort.csv", folder / "out").open()
    workflow.initialize()
    assert workflow.check_properties() == []


def walk_network(bundle: Path) -> None:
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


def walk_export(bundle: Path, folder: Path) -> None:
    """MONAI's ckpt_export works, and the exported network computes the same."""
    path = folder / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
        key_in_ckpt="",
    )
    with torch.jit.optimized_execution(False):  # torch's own optimizer; tests/networks run what it makes
        assert_equal_outputs(torch.jit.load(path), config_of(bundle).get_parsed_content("network").cpu())


def assert_equal_outputs(
    exported: Callable[[Tensor], Tensor], network: DifferSeg, shapes: Sequence[tuple[int, int, int]] = SHAPES
) -> None:
    """On batches and sizes that the exporter did not see, with a modality absent, and with nothing at all."""
    channels, last = sum(network.in_channels), network.in_channels[-1]
    for batch, height, width in shapes:
        x = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
        x[0, -last:] = 0
        for images in (x, x[:, :1].repeat(1, channels, 1, 1), torch.zeros_like(x)):
            with torch.no_grad():
                expected = network(images)
                actual = exported(images)
            assert actual.shape == expected.shape == (batch, 1, height, width)
            assert float((actual - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
