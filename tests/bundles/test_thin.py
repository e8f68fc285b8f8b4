"""Configurations are thin: nothing too long, nothing that nobody reads, no value that stands in two places."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser
from support.synthetic import ROOT

from differseg_med.bundles.configuration import Configuration
from differseg_med.bundles.new import TEMPLATES, new_bundle

BUNDLES = sorted(path.parents[1] for path in (ROOT / "bundles").glob("*/configs/inference.yaml"))
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
RUNS = (("inference",), ("inference", "evaluate"), ("inference", "train"))
FOR_MONAI = {"bundle_root", "dataset_dir", "_meta_"}
"""Ids that MONAI's applications look for; nothing of ours reads them."""


def unread(bundle: Path, configs: tuple[str, ...], presets: list[Path]) -> set[str]:
    """Top-level entries of a run that nothing reads; an overlaid part of the base does not count."""
    files = [bundle / "configs" / f"{name}.yaml" for name in configs] + presets
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    configuration = Configuration(parser, files)
    read = {entry.split("::")[0] for entry in configuration.read_entries()}
    last = yaml.safe_load((presets or files)[-1].read_text())
    return {name.lstrip("+").split("::")[0] for name in last} - read - FOR_MONAI


@pytest.mark.parametrize("configs", RUNS, ids="+".join)
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_every_entry_of_a_bundle_is_read(bundle, configs):
    assert unread(bundle, configs, []) == set()


def test_every_entry_of_a_template_s_bundle_is_read(tmp_path):
    made = new_bundle(TEMPLATES / "rgbdt.yaml", tmp_path / "made")
    assert [unread(made, configs, []) for configs in RUNS] == [set()] * 3


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_every_entry_of_a_preset_is_read_by_some_bundle(preset):
    """Windows of volumes and the size of pictures stand in one preset."""
    left = [unread(bundle, configs, [preset]) for bundle in BUNDLES for configs in RUNS]
    assert set.intersection(*left) == set()


def test_an_entry_that_nothing_reads_is_found(tmp_path):
    (tmp_path / "mine.yaml").write_text("num_worker: 3\namp: true\n")
    assert unread(BUNDLES[0], ("inference",), [tmp_path / "mine.yaml"]) == {"num_worker"}


def test_lines_are_short_and_few():
    for folder in [
        *(bundle / "configs" for bundle in BUNDLES),
        TEMPLATES / "image2d",
        TEMPLATES / "volume",
        ROOT / "configs",
    ]:
        for file in folder.glob("*.yaml"):
            text = re.sub(r"(?<=^modalities:)(.*\n)(  .*\n)+", r"\1  <<modalities>>\n", file.read_text(), flags=re.M)
            lines = [line for line in text.splitlines() if not line.startswith("#")]  # modalities count as one
            assert max(len(line) for line in lines if "<<" not in line) <= 120, file
            assert len(lines) <= {"evaluate": 3, "train": 44}.get(file.stem, 40), file


def test_training_repeats_nothing_of_inference():
    """Each value stands in one place: an overlay refers to it."""
    for bundle in BUNDLES:
        base, train = (yaml.safe_load((bundle / "configs" / f"{n}.yaml").read_text()) for n in ("inference", "train"))
        overlaid = set(base) & set(train)
        assert overlaid <= {"amp", "output_dir", "network", "run", "finalize"}
        assert all(base[name] != train[name] for name in overlaid)
        assert [
            n for n, times in Counter(str(v) for v in train.values()).items() if n.startswith("{") and times > 1
        ] == []
