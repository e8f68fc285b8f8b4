"""Building blocks shared by every part of DifferSeg: convolutions with batch norm, RFB reduction, prediction head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    relu: bool = True,
) -> nn.Sequential:
    """Stride-1 convolution with "same" zero padding, batch norm and (by default) ReLU.

    Maps ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``.
    """
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias),
        nn.BatchNorm2d(out_channels),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _linear_conv(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int], dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias + batch norm, no activation: the only unit inside an RFB."""
    return conv_bn(in_channels, out_channels, kernel, dilation=dilation, bias=False, relu=False)


class ReceptiveFieldBlock(nn.Module):
    """Receptive field block (RFB) that reduces one encoder level to the decoder's width; NETWORK.md section 2.

    The four branches and the shortcut each begin with a 1x1 convolution of the same input, so those five are one
    convolution here (``entry``); the result is identical, in training too, because batch norm works per channel.
    All modalities pass as one batch: the statistics seen in training are those of the joint batch, where the authors
    call the block once per modality. Evaluation does not differ.

    Args:
        in_channels: channels of the encoder level.
        out_channels: channels ``C`` of the reduced level.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        c = out_channels
        self.out_channels = c
        self.entry = _linear_conv(in_channels, 5 * c, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(_linear_conv(c, c, (1, k)), _linear_conv(c, c, (k, 1)), _linear_conv(c, c, 3, dilation=k))
            for k in (3, 5, 7)
        )
        self.merge = _linear_conv(4 * c, c, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, non-negative."""
        b0, b1, b2, b3, shortcut = self.entry(x).split(self.out_channels, dim=1)
        outputs = [b0]
        for branch, entry in zip(self.branches, (b1, b2, b3)):
            outputs.append(branch(entry))
        return functional.relu(self.merge(torch.cat(outputs, dim=1)) + shortcut)


class SegmentationHead(nn.Module):
    """Depthwise 3x3 convolution + BN + GELU + 1x1 convolution to one channel; NETWORK.md section 5."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
            nn.BatchNorm2d(in_channels),
            nn.GELU(),
            nn.Conv2d(in_channels, 1, 1),
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn ``(B, C, h, w)`` into logits ``(B, 1, H, W)`` at ``size = (H, W)``, bilinear with aligned corners."""
        return functional.interpolate(self.layers(x), size=size, mode="bilinear", align_corners=True)
