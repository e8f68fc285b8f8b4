"""Trainings of tiny networks on the processor, whose learning rate stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR

from differseg_med.bundles.factories import trainer
from differseg_med.training.train import RecordedTrainer


def tiny_trainer(optimizer: Optimizer, data: Sequence[dict[str, Any]], out: Path, **settings: Any) -> RecordedTrainer:
    """A trainer by the bundles' factory; ``network``, ``max_epochs`` and whatever else it takes are ``settings``."""
    return trainer(
        device="cpu",
        dataset=Dataset(data),
        output_dir=out,
        optimizer=optimizer,
        lr_scheduler=ConstantLR(optimizer, factor=1.0),
        **settings,
    )
