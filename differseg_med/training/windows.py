"""Smaller windows for the first part of a training, which is quicker and sees the same field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import default_prepare_batch
from torch import Tensor
from torch.nn import functional

from differseg_med.errors import ConfigError


class SmallerWindows:
    """A ``prepare_batch`` of MONAI's trainer that shrinks the windows of the first steps.

    A network learns what its target looks like from coarse pixels as well, at less than half of their number; the last
    steps have the pixels that inference has. After progressive resizing (Howard 2018; EfficientNetV2, Tan and Le 2021).

    Args:
        size: of the windows, rows and columns, multiples of 32.
        steps: how many steps have it.

    Raises:
        ConfigError: if a network cannot take such windows.
    """

    def __init__(self, size: Sequence[int], steps: int) -> None:
        if len(size) != 2 or any(n < 32 or n % 32 for n in size):
            raise ConfigError("no such windows", entry="size", expected="two multiples of 32", found=list(size))
        self.size, self.steps = (int(size[0]), int(size[1])), int(steps)
        self._engine: Engine | None = None

    def watch(self, engine: Engine) -> None:
        """Count the steps of this trainer: a resumed one goes on where it was."""
        self._engine = engine

    def __call__(
        self, batchdata: Mapping[str, Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Image ``(B, C, rows, columns)`` and label ``(B, 1, rows, columns)`` of a batch, small in the first steps."""
        image, label = default_prepare_batch(batchdata, device, non_blocking, **kwargs)[:2]
        step = self._engine.state.iteration if self._engine is not None else 0
        smaller = self.size[0] < image.shape[2] or self.size[1] < image.shape[3]
        if step > self.steps or not smaller:
            return image, label
        # The mean of the pixels that a coarse one covers: channels of an absent modality stay exactly zero.
        image = functional.interpolate(torch.as_tensor(image), size=self.size, mode="area")
        label = functional.interpolate(torch.as_tensor(label).float(), size=self.size, mode="area")
        return image, (label >= 0.5).to(label.dtype)
