"""The same network for samples that all lack the same modalities: what they lack is not computed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from differseg_med.networks.differseg import DifferSeg
from differseg_med.networks.fusion import ConcatFusion, DifferentialPerceptionFusion, MeanFusion

M = TypeVar("M", bound=nn.Module)

Pattern = tuple[bool, ...]
"""Which modalities there are, in the network's order."""


@torch.no_grad()
def restrict(network: DifferSeg, present: Pattern) -> DifferSeg:
    """The network of the present modalities alone, for evaluation: it takes their channels only, ``(B, sum, H, W)``.

    An absent modality adds exactly zero to every sum of the fusion, so its streams, and the weights that its zeros
    would meet, can be left out: outputs are equal up to rounding. Weights are shared with the network where they are
    the same.

    Raises:
        ValueError: if no modality is present, or their number is not the network's.
    """
    if len(present) != network.num_modalities or not any(present):
        raise ValueError(f"need at least one of {network.num_modalities} modalities, got {present}")
    kept = [i for i, there in enumerate(present) if there]
    part = _shallow(network)
    part.in_channels = [network.in_channels[i] for i in kept]
    part.num_modalities = len(kept)
    part.stems = nn.ModuleList(network.stems[i] for i in kept)
    part.fuse = nn.ModuleList(_restrict_fusion(fuse, kept) for fuse in network.fuse)
    return part.eval()


def select(x: Tensor, in_channels: Sequence[int], present: Pattern) -> Tensor:
    """The channels of the present modalities of ``(B, sum(in_channels), H, W)``."""
    parts = x.split(list(in_channels), dim=1)
    return torch.cat([part for part, there in zip(parts, present) if there], dim=1)


def _restrict_fusion(fuse: nn.Module, kept: list[int]) -> nn.Module:
    if isinstance(fuse, DifferentialPerceptionFusion):
        return _restrict_dpf(fuse, kept)
    if not isinstance(fuse, ConcatFusion | MeanFusion):
        raise ValueError(f"a fusion of another kind cannot be restricted: {type(fuse).__name__}")
    part = _shallow(fuse)
    part.num_modalities = len(kept)
    if isinstance(part, ConcatFusion):
        merge = cast(nn.Conv2d, part.merge[0])
        each = merge.in_channels // fuse.num_modalities
        part.merge = nn.Sequential(_convolution(merge, taken=_channels(kept, each)), *part.merge[1:])
    return part


def _restrict_dpf(fuse: DifferentialPerceptionFusion, kept: list[int]) -> DifferentialPerceptionFusion:
    channels = _channels(kept, fuse.channels)
    part = _shallow(fuse)
    part.num_modalities = len(kept)
    part.project = _convolution(fuse.project, given=channels, groups=len(kept))
    if len(kept) == 1:  # the weight of one modality is 1
        part.weigh = nn.Identity()
    else:
        unit, choose = cast(nn.Sequential, fuse.weigh)
        first = _convolution(cast(nn.Conv2d, cast(nn.Sequential, unit)[0]), taken=channels)
        unit = nn.Sequential(first, *cast(nn.Sequential, unit)[1:])
        part.weigh = nn.Sequential(unit, _convolution(cast(nn.Conv2d, choose), given=torch.tensor(kept)))
    return part


def _channels(kept: list[int], each: int) -> Tensor:
    """The channels of the kept modalities, modality-major."""
    return torch.cat([torch.arange(i * each, (i + 1) * each) for i in kept])


def _convolution(
    layer: nn.Conv2d, *, taken: Tensor | None = None, given: Tensor | None = None, groups: int = 1
) -> nn.Conv2d:
    """A convolution of some of the channels that a layer takes, or to some of those that it gives."""
    weight, bias = layer.weight, layer.bias
    if given is not None:
        weight, bias = weight[given], None if bias is None else bias[given]
    if taken is not None:
        weight = weight[:, taken]
    part = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        cast(tuple[int, int], layer.kernel_size),
        padding=cast(tuple[int, int], layer.padding),
        groups=groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    part.weight = nn.Parameter(weight.detach().clone(memory_format=torch.channels_last), requires_grad=False)
    if bias is not None:
        part.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return part


def _shallow(module: M) -> M:
    """A copy whose parts can be replaced without touching the module."""
    part = copy.copy(module)
    part._modules = dict(module._modules)
    return part
