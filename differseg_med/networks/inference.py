"""The same network, quicker: for prediction only."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import cast

import torch
from timm.layers import GELU, Mlp
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


class PackedLinear(nn.Module):
    """A linear layer ``(..., C)`` to ``(..., D)`` with its weights in the layout of oneDNN, and the GELU behind it.

    torch's own layer first copies the bias over the whole output, and its GELU reads and writes the output once more.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to float32."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "none")
        return out


def pack_for_cpu(network: DifferSeg) -> DifferSeg:
    """Copy a network as `fuse_for_inference`, with every linear layer of a transformer encoder packed for this CPU.

    The quickest float32 form, for eager evaluation only: packed weights cannot be saved, moved, cast or exported.

    Raises:
        RuntimeError: where torch was built without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("packing needs a torch with oneDNN; use fuse_for_inference")
    packed = fuse_for_inference(network)
    for parent in list(packed.modules()):
        for name, following in _linears(parent):
            activated = following is not None and _is_gelu(getattr(parent, following))
            setattr(parent, name, PackedLinear(getattr(parent, name), "gelu" if activated else "none"))
            if activated:
                setattr(parent, str(following), nn.Identity())
    return packed


def _linears(parent: nn.Module) -> list[tuple[str, str | None]]:
    """Names of a module's own linear layers, and of what follows at once, where that is known: in Mlp and sequences."""
    names = list(parent._modules)
    after = dict(pairwise(names)) if isinstance(parent, nn.Sequential | Mlp) else {}
    return [(name, after.get(name)) for name in names if isinstance(parent._modules[name], nn.Linear)]


def _is_gelu(module: nn.Module) -> bool:
    return isinstance(module, GELU | nn.GELU) and getattr(module, "approximate", "none") == "none"


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
