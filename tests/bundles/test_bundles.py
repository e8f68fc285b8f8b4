"""Every bundle in the repository: a new bundle needs no new test code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.walk import CONFIGS, config_of, walk_export, walk_files, walk_names, walk_network, walk_properties

from differseg_med.bundles.workflows import BundleRun
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import exit_code
from differseg_med.evaluation.baselines import baselines
from differseg_med.evaluation.predictions import mask_file
from differseg_med.io.volumes import load_mask, load_volume

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in (ROOT / "bundles").glob("*/configs/inference.yaml"))
FILES = ("LICENSE", "configs/metadata.json", "docs/README.md", "models/model.pt", "sample/cohort.csv")

pytestmark = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another working directory than the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_has_the_files_of_a_bundle(bundle: Path) -> None:
    walk_files(bundle, FILES)


def test_configurations_name_only_what_they_may(bundle: Path) -> None:
    walk_names(bundle)


@pytest.mark.parametrize("configs", CONFIGS, ids="+".join)
def test_workflow_has_the_properties_that_monai_looks_for(bundle: Path, configs: list[str], elsewhere: Path) -> None:
    walk_properties(bundle, configs, bundle / "sample" / "cohort.csv", elsewhere)


def test_network_takes_and_returns_what_the_metadata_says(bundle: Path, elsewhere: Path) -> None:
    walk_network(bundle)


def test_weights_are_small_plain_tensors(bundle: Path) -> None:
    """model.pt loads with weights_only and stays under 25 MB."""
    path = bundle / "models" / "model.pt"
    assert path.stat().st_size <= 25e6
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_exports_to_torchscript_with_equal_outputs(bundle: Path, elsewhere: Path) -> None:
    walk_export(bundle, elsewhere)


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
