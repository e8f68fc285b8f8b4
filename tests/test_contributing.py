"""CONTRIBUTING.md says which files a new encoder, metric or format takes: each is added in a copy of the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.forking import run_program

ROOT = Path(__file__).resolve().parents[1]

TRY = """
import numpy as np, torch
from differseg_med.networks import DifferSeg
for encoder in ("halves", "resnet10t"):  # the second is a model of timm: no file at all
    net = DifferSeg(in_channels=(1, 1), encoder=encoder, decoder_channels=(8, 8, 8, 8)).eval()
    with torch.no_grad():
        print(encoder, tuple(net(torch.rand(1, 2, 64, 64)).shape))

from differseg_med.metrics.case import case_metrics
half = np.zeros((4, 4, 4)); half[:2] = 1
print("missed", case_metrics(half, np.ones((4, 4, 4)), (1, 1, 1))["missed_share"],
      case_metrics(np.zeros((4, 4, 4)), half, (1, 1, 1))["missed_share"])

from differseg_med.export.registry import FORMATS
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Segmented
from differseg_med.geometry import Grid
from differseg_med.prediction.writers import RUN_FORMATS, write_format
from differseg_med.cli.export import NAMES
mask = Segmented(half.astype(np.uint8), Grid((4, 4, 4), np.eye(4)), SegmentInfo("x"), {}, "t1")
print(write_format("count", mask, "."), open("count.txt").read(), "count" in NAMES)

from monai.bundle import ConfigParser
from differseg_med.bundles.new import TEMPLATES, new_bundle
folder = new_bundle(TEMPLATES / "rgbxray.yaml", "bag_segmentation")
parser = ConfigParser()
parser.read_config(folder / "configs" / "inference.yaml")
parser["device"] = "cpu"
print("template", list(parser["modalities"]), parser.get_parsed_content("network_def").in_channels)
"""

ENCODER = """
from torch import nn


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (8, 16, 24, 32)
        steps = [nn.Conv2d(3, 8, 4, stride=4)]
        steps += [nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:])]
        self.steps = nn.ModuleList(steps)

    def forward(self, x):
        out = []
        for step in self.steps:
            x = step(x)
            out.append(x)
        return out


def halves(name, **_):
    return Halves(), (8, 16, 24, 32)
"""

EXPORTER = """
def write_count(segmented, path):
    path.write_text(str(int(segmented.mask.sum())))
    return ["counted"]
"""


def insert(path: Path, after: str, line: str) -> None:
    """Add one line to a file of the copy."""
    text = path.read_text(encoding="utf-8")
    assert after in text, f"{path.name} has no line {after!r}"
    path.write_text(text.replace(after, f"{after}\n{line}", 1), encoding="utf-8")


TEMPLATE = """
target: object in a bag
modalities:
  rgb: {kind: image, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
  bag: {kind: xray}
spatial_size: [64, 64]
max_epochs: 1
val_interval: 1
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """What the copy of the package prints after all additions."""
    copy = tmp_path_factory.mktemp("copy")
    package = copy / "differseg_med"
    shutil.copytree(ROOT / "differseg_med", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "networks" / "halves.py").write_text(ENCODER)
    encoders = package / "networks" / "encoders.py"
    text = encoders.read_text(encoding="utf-8").replace(
        "from differseg_med.networks.checkpoints import",
        "from differseg_med.networks.halves import halves\nfrom differseg_med.networks.checkpoints import",
    )
    assert '{"timm": timm_encoder}' in text
    encoders.write_text(text.replace('{"timm": timm_encoder}', '{"timm": timm_encoder, "halves": halves}'))
    insert(
        package / "metrics" / "policy.py",
        "MEASURES: dict[str, Measure] = {",
        '    "missed_share": Measure("Missed share", "", "lower", "Share of R that P misses."),',
    )
    insert(
        package / "metrics" / "case.py",
        "    if predicted and referenced:  # else the policy gives these scores",
        '        scores["missed_share"] = 1 - common / referenced',
    )
    (package / "export" / "count.py").write_text(EXPORTER)
    insert(
        package / "export" / "registry.py",
        "FORMATS = {",
        '    "count": Format("count.txt", "differseg_med.export.count:write_count"),',
    )
    (package / "bundles" / "templates" / "rgbxray.yaml").write_text(TEMPLATE)
    (copy / "try_it.py").write_text(TRY)
    run = run_program(copy / "try_it.py", cwd=copy)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def test_an_encoder_is_a_file_and_a_line_and_one_of_timm_nothing(tried):
    assert "halves (1, 1, 64, 64)" in tried
    assert "resnet10t (1, 1, 64, 64)" in tried


def test_a_metric_is_two_files_and_its_policy_follows(tried):
    assert "missed 0.5 1.0" in tried  # lower is better: an empty prediction gets the worst share


def test_a_format_is_a_file_and_a_line(tried):
    assert "('count.txt', ['counted']) 32 True" in tried


def test_a_template_of_bundles_is_a_file(tried):
    assert "template ['rgb', 'bag'] [3, 1]" in tried
