"""Where samples are made, and what a training starts from when the caller has set the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from support.synthetic import BUNDLE, SHORT_TRAINING, bundle_workflow, write_split_cohort

from differseg_med.errors import ConfigError
from differseg_med.training.loaders import BatchedLoader, SampleLoader, sample_loader

TINY = SHORT_TRAINING | {"val_interval": 2, "train::samples::placement": {}}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two cases to train, one to validate."""
    return write_split_cohort(tmp_path_factory.mktemp("cohort"))


def training(table: Path, out: Path, **overrides):
    """The workflow of train.yaml and its trainer, samples made in batches on the device, which is the processor."""
    settings = {**TINY, "cohort": str(table), "output_dir": str(out), "train::trainer::augmentation": "device"}
    workflow = bundle_workflow("inference.yaml", "train.yaml", **{**settings, **overrides})
    return workflow, workflow.parser.get_parsed_content("train::trainer")


def network_of(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.pt", weights_only=True)["network"]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_samples_in_batches_train_resume_and_repeat_to_the_last_bit(table, tmp_path):
    workflow, trainer = training(table, tmp_path / "whole")
    assert isinstance(trainer.data_loader, BatchedLoader)
    workflow.run()
    workflow, trainer = training(table, tmp_path / "parts")

    @trainer.on(Events.ITERATION_COMPLETED(once=3))
    def _stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    torch.manual_seed(99)
    training(table, tmp_path / "parts")[0].run()
    assert_equal(network_of(tmp_path / "parts"), network_of(tmp_path / "whole"))


def test_handlers_of_the_user_get_image_prediction_and_label(table, tmp_path, capsys):
    """MONAI's own StatsHandler from the configuration, as bundles of the model zoo write it, and one of the user's."""
    stats = {"_target_": "StatsHandler", "tag_name": "dice_ce"}
    stats |= {"output_transform": "$monai.handlers.from_engine(['loss'], first=True)"}
    one = {"max_epochs": 1, "iterations": 1, "validate::evaluator": None, "train::trainer::train_handlers": [stats]}
    workflow, trainer = training(table, tmp_path, **one)
    seen = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.extend(engine.state.output))
    workflow.run()
    assert "dice_ce: " in "".join(capsys.readouterr())
    assert len(seen) == 2
    for sample in seen:
        assert sample["image"].shape == (9, 32, 32)
        assert sample["label"].shape == (1, 32, 32)
        assert [tuple(level.shape) for level in sample["pred"]] == [(1, 32, 32)] * 4
        assert sample["loss"].isfinite()
    assert {sample["case_id"] for sample in trainer.state.batch} <= {"a", "b"}


def test_the_place_of_the_samples_is_one_of_three():
    assert isinstance(sample_loader([1, 2], 1, 1, augmentation="auto"), SampleLoader)
    with pytest.raises(ConfigError, match=r"augmentation.*auto, device, workers.*gpu"):
        sample_loader([1, 2], 1, 1, augmentation="gpu")


def site(table: Path, out: Path, *, evaluates: bool) -> MonaiAlgo:
    """A site of federated learning, one step per round."""
    files = ["configs/inference.yaml", "configs/train.yaml"]
    settings = {**TINY, "bundle_root": str(BUNDLE), "cohort": str(table), "output_dir": str(out)}
    algo = MonaiAlgo(
        bundle_root=str(BUNDLE),
        send_weight_diff=False,
        config_train_filename=files,
        train_kwargs={**settings, "max_epochs": 1, "iterations": 1, "validate::evaluator": None},
        config_evaluate_filename=files if evaluates else None,
        eval_kwargs=settings,
        disable_ckpt_loading=False,
    )
    algo.initialize()
    return algo


def sent(weights: dict[str, torch.Tensor]) -> ExchangeObject:
    found = {name: value.numpy() for name, value in weights.items()}
    return ExchangeObject(weights=found, weight_type=WeightType.WEIGHTS)


def test_two_sites_average_and_each_round_starts_from_what_it_is_given(table, tmp_path, caplog):
    """Federated averaging through MONAI's own client: sites of the same data give what one of them gives."""
    caplog.set_level("INFO")
    sites = [site(table, tmp_path / name, evaluates=name == "one") for name in ("one", "two")]
    start = {name: value.clone() for name, value in sites[0].trainer.network.state_dict().items()}
    for algo in sites:
        algo.train(sent(start))
    first = [algo.get_weights().weights for algo in sites]
    mean = {name: torch.as_tensor((first[0][name] + first[1][name]) / 2) for name in first[0]}
    for name, value in mean.items():
        torch.testing.assert_close(value.float(), torch.as_tensor(first[0][name]).float())
    moved = {name: value + 7.0 if name == "heads.0.layers.3.bias" else value for name, value in mean.items()}
    before = caplog.text.count("nothing is resumed")
    sites[0].train(sent(moved))
    assert caplog.text.count("nothing is resumed") == before + 1
    after = sites[0].get_weights().weights
    for name in ("heads.0.layers.3.bias", "heads.0.layers.0.bias"):
        assert abs(torch.as_tensor(after[name]) - moved[name]).max() < 0.5, name
    assert sites[0].trainer.state.epoch == 2
    scores = sites[0].evaluate(sent(moved)).metrics
    assert "No global weights converted" not in caplog.text
    assert 0 <= scores["val_mean_dice"] <= 1
