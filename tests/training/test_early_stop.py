"""A training that ends early, by validation scores worked out by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.inferers import SimpleInferer
from support.training import tiny_trainer
from torch import Tensor, nn

from differseg_med.bundles.factories import validation_evaluator
from differseg_med.runs.manifest import read_steps

SAID = "ended after epoch 8: 2 validations without a better one"


class Rising(nn.Module):
    """After epoch e the first e of 12 columns are in its mask: column j holds -(j + 0.5), and each step adds 1."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def training(out: Path, early_stop: int | None):
    """Up to ten epochs of one step; validated after every second one on a target of the first three columns."""
    column = torch.arange(12.0).view(1, 1, 12, 1)
    item = {"image": -(column + 0.5), "label": (column < 3).float(), "affine": torch.eye(4), "case_id": "a"}
    network, data = Rising(), [item]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    return tiny_trainer(
        optimizer,
        data,
        out,
        network=network,
        max_epochs=10,
        iterations=1,
        batch_size=1,
        average_decay=0.0,
        loss_function=lambda logits, _: -logits.mean(),
        evaluator=validation_evaluator(torch.device("cpu"), Dataset(data), network, SimpleInferer()),
        val_interval=2,
        early_stop=early_stop,
    )


def scores(out: Path) -> dict[str, float]:
    with (out / "log.csv").open(newline="") as file:
        return {row["epoch"]: float(row["val_dice"]) for row in csv.DictReader(file) if row["val_dice"]}


def by_hand(epochs: list[int]) -> dict[str, float]:
    """Dice of the first e columns with the first three."""
    return pytest.approx({str(e): 2 * min(e, 3) / (e + 3) for e in epochs})


def weight_of(path: Path, *names: str) -> float:
    state = torch.load(path, weights_only=True)
    for name in names:
        state = state[name]
    return float(state["bias"])


def test_it_ends_after_two_validations_without_a_better_one_and_says_so(tmp_path, caplog):
    training(tmp_path, early_stop=2).run()
    assert scores(tmp_path) == by_hand([2, 4, 6, 8])  # 0.80, 0.86 (the best), 0.67, 0.55
    assert weight_of(tmp_path / "best.pt") == pytest.approx(4.0)
    assert caplog.text.count(SAID) == 1
    step = read_steps(tmp_path)["train"]
    assert (step.state, step.remarks) == ("finished", [SAID])


def test_without_it_the_same_training_goes_on_to_the_last_epoch(tmp_path):
    training(tmp_path, early_stop=None).run()
    assert scores(tmp_path) == by_hand([2, 4, 6, 8, 10])
    assert read_steps(tmp_path)["train"].remarks == []


def test_it_counts_the_validations_before_an_interruption_and_does_not_go_on_after_the_end(tmp_path, caplog):
    caplog.set_level("INFO")
    engine = training(tmp_path, early_stop=2)

    @engine.on(Events.ITERATION_COMPLETED(once=7))  # one validation without a better one is behind it
    def _stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run()
    for told in ("resumed after epoch 6: 4 to go", "resumed after epoch 8: finished"):
        training(tmp_path, early_stop=2).run()
        assert scores(tmp_path) == by_hand([2, 4, 6, 8])
        assert weight_of(tmp_path / "last.pt", "network") == pytest.approx(8.0)
        assert told in caplog.text
        assert read_steps(tmp_path)["train"].remarks == [SAID]
