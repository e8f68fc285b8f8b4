"""Smaller windows for the first steps of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from support.synthetic import BUNDLE, ROOT, write_split_cohort
from support.training import tiny_trainer
from torch import Tensor, nn

from differseg_med.bundles.factories import SmallerWindows
from differseg_med.bundles.workflows import BundleRun
from differseg_med.errors import CaseError, ConfigError


class Watched(nn.Module):
    """Notes the windows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 1, 1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.layer(x)


def training(out: Path, **settings):
    """Three epochs of two steps on one image of 64 x 96 whose second channel is absent."""
    generator = torch.Generator().manual_seed(0)
    image = torch.cat((torch.rand(1, 64, 96, generator=generator), torch.zeros(1, 64, 96)))
    network = Watched()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return tiny_trainer(
        optimizer,
        [{"image": image, "label": (image[:1] > 0.5).float(), "case_id": "a"}],
        out,
        network=network,
        max_epochs=3,
        iterations=2,
        batch_size=2,
        loss_function=nn.BCEWithLogitsLoss(),
        **{"prepare_batch": SmallerWindows((32, 64), 3), **settings},
    )


def sizes(engine) -> list[tuple[int, ...]]:
    return [tuple(x.shape[2:]) for x in engine.network.seen]


def test_the_first_steps_see_means_of_pixels_and_the_others_the_window(tmp_path):
    engine = training(tmp_path)
    labels = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: labels.append(e.state.output[0]["label"]))
    engine.run()
    assert sizes(engine) == 3 * [(32, 64)] + 3 * [(64, 96)]
    small, whole = engine.network.seen[0][0], engine.network.seen[5][0]
    assert float(small[0].mean()) == pytest.approx(float(whole[0].mean()), abs=0.01)
    assert float(small[0, 0, 0]) == pytest.approx(float(whole[0, :2, :2].mean()), abs=1e-6)
    assert not small[1].any()
    assert set(labels[0].unique().tolist()) == {0.0, 1.0}
    assert labels[0].shape == (1, 32, 64)


def test_a_resumed_training_counts_the_steps_before(tmp_path):
    engine = training(tmp_path)

    @engine.on(Events.ITERATION_COMPLETED(once=3))
    def _stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run()
    again = training(tmp_path)
    again.run()
    assert sizes(again) == [(32, 64), *3 * [(64, 96)]]
    with pytest.raises(CaseError, match=r"is of another training .*windows"):
        training(tmp_path, prepare_batch=SmallerWindows((32, 64), 4)).run()


def test_the_overlay_shrinks_four_fifths_of_the_steps_and_freezes_three_stages(tmp_path):
    preset = str(ROOT / "configs" / "quick_windows.yaml")
    settings = {"max_epochs": 5, "iterations": 4, "roi_size": [96, 96], "network_def::decoder_channels": [8, 8, 8, 8]}
    table = write_split_cohort(tmp_path, ("train",))
    run = BundleRun(BUNDLE, ["inference", "train", preset], table, tmp_path / "out", settings=settings)
    workflow = run.open()
    workflow.initialize()
    engine = workflow.parser.get_parsed_content("train::trainer")
    assert (engine.prepare_batch.size, engine.prepare_batch.steps) == ((64, 64), 16)
    assert len(engine.network.frozen) >= 4


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="multiples of 32"):
        SmallerWindows((48, 48), 3)
    with pytest.raises(ConfigError, match=r"one CUDA graph.*SmallerWindows"):
        training(tmp_path, cuda_graph=True)
