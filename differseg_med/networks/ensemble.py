"""Several networks as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPS = 1e-6
"""Probabilities are held this far from 0 and 1, so that logits stay finite."""


class Ensemble(nn.Module):
    """Networks of one kind, those of the folds for example, for evaluation.

    Args:
        members: at least one, with the same input.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs a network")
        self.members = nn.ModuleList(members)
        self.in_channels = list(getattr(members[0], "in_channels", []))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)`` of the mean probability for ``(B, sum(in_channels), H, W)``."""
        return mean_logits([member(x) for member in self.members])


def members_of(network: nn.Module) -> list[nn.Module]:
    """The networks of an ensemble; any other network alone."""
    return list(network.members) if isinstance(network, Ensemble) else [network]


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Logits of the mean of several probabilities, all of one shape; those of one network as they are."""
    if len(logits) == 1:
        return logits[0]
    return torch.logit(torch.stack([value.float().sigmoid() for value in logits]).mean(dim=0), eps=EPS)


def mean_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One set of weights, the mean of several of the same network; counters are those of the first."""
    return {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
