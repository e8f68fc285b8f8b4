"""Curves where people look for them: TensorBoard and MLflow, through MONAI's own handlers."""

from __future__ import annotations

import csv
import importlib.util
import logging

import pytest
from monai.bundle import run
from support.synthetic import BUNDLE, ROOT, SHORT_TRAINING, SMALL, bundle_workflow, write_split_cohort
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from differseg_med.bundles.failures import explained

TINY = SHORT_TRAINING | {"planes": ["axial"]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_split_cohort(tmp_path_factory.mktemp("cohort"))


def test_tensorboard_has_the_losses_of_the_steps_and_the_scores_of_the_epochs(table, tmp_path):
    preset = str(ROOT / "configs" / "tensorboard.yaml")
    files = ("inference.yaml", "train.yaml", preset)
    bundle_workflow(*files, cohort=str(table), output_dir=str(tmp_path), **TINY).run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    for epoch, row in enumerate(rows):
        mean = (losses[2 * epoch][1] + losses[2 * epoch + 1][1]) / 2
        assert mean == pytest.approx(float(row["loss"]), rel=1e-5)
    for name in ("dice", "hd95_mm"):
        told = [(event.step, event.value) for event in events.Scalars(f"val_mean_{name}")]
        assert told == [(n, pytest.approx(float(row[f"val_{name}"]), rel=1e-5)) for n, row in enumerate(rows, 1)]


def test_mlflow_that_is_not_installed_is_one_line(table, tmp_path):
    """With it, docs/training.md says what was run; it would bring 20 packages into the tests."""
    assert importlib.util.find_spec("mlflow") is None
    configs = BUNDLE / "configs"
    settings = {**SMALL, **TINY, "network_def::encoder_weights": "$None", "pixdim": "$None"}
    before = logging.root.handlers[:]
    with pytest.raises(Exception, match="MLFlowHandler") as caught:
        run(
            logging_file=False,
            config_file=[str(configs / "inference.yaml"), str(configs / "train.yaml")],
            bundle_root=str(BUNDLE),
            cohort=str(table),
            output_dir=str(tmp_path),
            device="$torch.device('cpu')",
            tracking="mlflow",
            **settings,
        )
    logging.root.handlers[:] = before
    told = str(explained(caught.value))
    assert "mlflow is not installed" in told
    assert told.endswith('Run pip install "differseg-med[mlflow]"')
    assert "\n" not in told
