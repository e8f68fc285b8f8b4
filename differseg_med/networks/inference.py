"""The same network, quicker: for prediction only."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from differseg_med.networks.differseg import DifferSeg


@torch.no_grad()
def fuse_for_inference(network: DifferSeg) -> DifferSeg:
    """Copy a network with every batch norm folded into the convolution before it, in channels-last layout.

    Outputs are equal up to rounding. The copy can be scripted, traced, compiled and moved, but it has other state-dict
    keys and cannot be trained.
    """
    fused = copy.deepcopy(network).eval()
    for convolution_name, norm_name in _pairs(fused):
        convolution, norm = fused.get_submodule(convolution_name), fused.get_submodule(norm_name)
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        folded = fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm), transpose=transposed)
        fused.set_submodule(convolution_name, folded)
        # timm has batch norms with the activation inside.
        fused.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    return fused.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _pairs(network: DifferSeg) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that take their output, found by watching one forward pass."""
    made_by: dict[int, str] = {}
    alive: list[Tensor] = []  # an id is unique only as long as its tensor lives
    pairs: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.BatchNorm2d):
                if id(inputs[0]) in made_by:
                    pairs.append((made_by[id(inputs[0])], name))
            else:
                made_by[id(output)] = name
                alive.append(output)

        return module.register_forward_hook(hook)

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    handles = [watch(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    parameter = next(network.parameters())
    network(torch.zeros(1, sum(network.in_channels), 64, 64, device=parameter.device, dtype=parameter.dtype))
    for handle in handles:
        handle.remove()
    return pairs
