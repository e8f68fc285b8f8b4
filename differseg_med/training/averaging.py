"""A moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedNetwork(nn.Module):
    """Exponential moving average of a network's weights and buffers; it is what validation and inference use.

    Args:
        network: the network that is trained.
        decay: share of the average that stays at each step, lower in the first steps.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        super().__init__()
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards ``network`` after training step ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, currents = self._pairs(network, floating=True)
        torch._foreach_lerp_(averages, currents, 1 - decay)  # one kernel on a GPU, not one per tensor
        for average, current in zip(*self._pairs(network, floating=False)):
            average.copy_(current)

    def _pairs(self, network: nn.Module, *, floating: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors of the average, and those of the network beside them."""
        pairs = zip((*self.average.parameters(), *self.average.buffers()), (*network.parameters(), *network.buffers()))
        chosen = [pair for pair in pairs if pair[0].dtype.is_floating_point == floating]
        return [average for average, _ in chosen], [current.detach() for _, current in chosen]

    def train(self, mode: bool = True) -> AveragedNetwork:
        """Stay in evaluation mode whatever is asked: the average is never trained."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the averaged network."""
        out: Tensor = self.average(x)
        return out
