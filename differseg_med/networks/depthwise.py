"""Depthwise convolutions on maps of a few pixels, for training on a processor."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class SmallMapDepthwise(nn.Conv2d):
    """A depthwise convolution that in training computes maps of a few pixels as one matrix product per channel.

    At stride 32 a window of 64 pixels is a map of 2 x 2, where oneDNN's backward pass takes 30 ms for a layer of 1152
    channels and this takes 4. Parameters, names and values are those of the convolution.
    """

    MOST_PIXELS = 4

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``, stride 1, same size."""
        b, c, h, w = x.shape
        if not self.training or h * w > self.MOST_PIXELS or x.device.type != "cpu":
            return super().forward(x)
        taps = functional.pad(self.weight.flatten(1), (0, 1))  # the last tap is zero: what falls outside the map
        matrix = taps[:, self._tap_of(h, w).flatten()].view(c, h * w, h * w)
        out = torch.bmm(x.transpose(0, 1).reshape(c, b, h * w), matrix).view(c, b, h, w).transpose(0, 1)
        return out.contiguous(memory_format=torch.channels_last)

    def _tap_of(self, h: int, w: int) -> Tensor:
        """Which tap joins each input pixel (rows) to each output pixel (columns)."""
        kernel = self.kernel_size[0]
        row, column = torch.arange(h * w) // w, torch.arange(h * w) % w
        down = row[:, None] - row[None] + kernel // 2
        right = column[:, None] - column[None] + kernel // 2
        inside = (down >= 0) & (down < kernel) & (right >= 0) & (right < kernel)
        return torch.where(inside, down * kernel + right, kernel * kernel).to(self.weight.device)


def quicken_depthwise(network: nn.Module) -> nn.Module:
    """Put `SmallMapDepthwise` where it fits, in place; the state dict stays as it is."""
    for name, module in list(network.named_modules()):
        if type(module) is not nn.Conv2d or module.bias is not None or module.groups != module.in_channels:
            continue
        kernel, padding = module.kernel_size, cast(tuple[int, int], module.padding)
        same = kernel[0] == kernel[1] and padding == (kernel[0] // 2, kernel[0] // 2)
        plain = module.stride == (1, 1) and module.dilation == (1, 1) and module.in_channels == module.out_channels
        if same and plain and kernel[0] > 1 and module.groups > 1:
            c = module.in_channels
            quick = SmallMapDepthwise(c, c, kernel[0], padding=kernel[0] // 2, groups=c, bias=False)
            quick.weight = module.weight
            network.set_submodule(name, quick.train(module.training))
    return network
