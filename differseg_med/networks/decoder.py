"""Decoders, four fused levels to one feature at stride 4: FGD (the paper's, NETWORK.md section 4) and an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from differseg_med.networks.blocks import conv_bn


def _pooled_mlp(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """Global mean, then two 1x1 convolutions with a ReLU between: ``(B, in, H, W)`` to ``(B, out, 1, 1)``."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(in_channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, out_channels, 1),
    )


class FrequencyDecomposer(nn.Module):
    """Split a feature ``(B, C, H, W)`` into a low- and a high-frequency part of the same shape.

    Args:
        channels: ``C``, a multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.low_pass = nn.ModuleList(nn.Conv2d(c, c, k, padding=k // 2, groups=c) for k in (3, 5, 7))
        self.low_attention = nn.Sequential(conv_bn(3 * c, c, 1), nn.Conv2d(c, 3, 1))
        self.high_branches = nn.ModuleList(conv_bn(c, c // 4, k) for k in (1, 3, 5))
        self.high_gate = conv_bn(3 * (c // 4), c, 1, relu=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(low, high)``."""
        smooth = [low_pass(x) for low_pass in self.low_pass]
        a = self.low_attention(torch.cat(smooth, dim=1)).softmax(dim=1)
        low = a[:, 0:1] * smooth[0] + a[:, 1:2] * smooth[1] + a[:, 2:3] * smooth[2]
        residual = x - low
        gate = self.high_gate(torch.cat([branch(residual) for branch in self.high_branches], dim=1)).sigmoid()
        return low, residual * gate


class ScaleAttention(nn.Module):
    """Squeeze-excitation of the low and the high part of one level, with a small interaction between them.

    Args:
        channels: ``C``, a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.low_gate = _pooled_mlp(c, c // 8, c)
        self.high_gate = _pooled_mlp(c, c // 8, c)
        self.interact = nn.Sequential(conv_bn(c, c, 3, groups=c // 8), nn.Conv2d(c, c, 1))

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Map two ``(B, C, H, W)`` to two of the same shape."""
        shared = 0.1 * self.interact(low * high)
        return low * self.low_gate(low).sigmoid() + shared, high * self.high_gate(high).sigmoid() + shared


class _UpsamplingPaths(nn.Module):
    """Three parallel upsampling paths of one frequency part.

    The three transposed convolutions read the same input, so they are one with three times the channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        c = out_channels
        self.out_channels = c
        self.up = nn.Sequential(
            nn.ConvTranspose2d(in_channels, 3 * c, 4, stride=2, padding=1), nn.BatchNorm2d(3 * c), nn.ReLU(inplace=True)
        )
        self.transform = nn.ModuleList(nn.Conv2d(c, c, k, padding=k // 2, groups=c // 4) for k in (1, 3, 5))

    def forward(self, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Map ``(B, in_channels, h, w)`` to three ``(B, out_channels, *size)``."""
        up = self.up(x)
        if up.shape[2] != size[0] or up.shape[3] != size[1]:
            up = functional.interpolate(up, size=size, mode="bilinear", align_corners=False)
        parts = up.split(self.out_channels, dim=1)
        outputs: list[Tensor] = []
        for i, transform in enumerate(self.transform):  # TorchScript cannot zip modules with tensors
            outputs.append(transform(parts[i]))
        return outputs


class FrequencyUpsampler(nn.Module):
    """Bring the low and high parts of a coarser level to the next finer one and join them with it.

    Args:
        in_channels: channels of the coarser level.
        out_channels: channels ``C`` of the finer level, a multiple of 4.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        c = out_channels
        self.low_paths = _UpsamplingPaths(in_channels, c)
        self.high_paths = _UpsamplingPaths(in_channels, c)
        self.select = _pooled_mlp(6 * c, c // 2, 6)
        self.detail = nn.Sequential(conv_bn(4 * c, c, 3), conv_bn(c, c, 3, dilation=2), nn.Conv2d(c, c, 1))

    def forward(self, coarse_low: Tensor, coarse_high: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Join ``(B, in_channels, h, w)`` pairs with ``(B, C, H, W)`` pairs; returns ``(low, high)`` at ``(H, W)``."""
        size = (low.shape[2], low.shape[3])
        paths = self.low_paths(coarse_low, size) + self.high_paths(coarse_high, size)
        # Pooled one by one: the same means without a copy of all six maps.
        s = self.select(torch.cat([functional.adaptive_avg_pool2d(path, 1) for path in paths], dim=1)).softmax(dim=1)
        up_low = s[:, 0:1] * paths[0] + s[:, 1:2] * paths[1] + s[:, 2:3] * paths[2]
        up_high = s[:, 3:4] * paths[3] + s[:, 4:5] * paths[4] + s[:, 5:6] * paths[5]
        new_low = 0.6 * up_low + 0.4 * low
        new_high = 0.6 * up_high + 0.4 * high
        detail = 0.3 * self.detail(torch.cat((new_low, new_high, low, high), dim=1))
        return new_low + detail, new_high + detail


class FrequencyBalancer(nn.Module):
    """Weigh the low against the high part and merge them into one feature ``(B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.weigh = _pooled_mlp(2 * c, c // 4, 2)
        self.merge = nn.Sequential(conv_bn(2 * c, c, 3), nn.Conv2d(c, c, 1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Merge two ``(B, C, H, W)``."""
        w = self.weigh(torch.cat((low, high), dim=1)).softmax(dim=1)
        return self.merge(torch.cat((w[:, 0:1] * low, w[:, 1:2] * high), dim=1)) + 0.5 * (low + high)


class FrequencyGuidedDecoder(nn.Module):
    """Decode levels given coarse to fine into one feature at the finest level's size.

    Args:
        channels: channels per level, coarse to fine (stride 32, 16, 8, 4), each a multiple of 8.

    Raises:
        ValueError: if a level's channels are not a multiple of 8.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        wrong = [c for c in channels if c % 8]
        if wrong:
            raise ValueError(f"every level's channels must be a multiple of 8, got {wrong} in {list(channels)}")
        self.decompose = nn.ModuleList(FrequencyDecomposer(c) for c in channels)
        self.attend = nn.ModuleList(ScaleAttention(c) for c in channels)
        self.upsample = nn.ModuleList(FrequencyUpsampler(coarse, fine) for coarse, fine in pairwise(channels))
        self.balance = FrequencyBalancer(channels[-1])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode ``[f4, f3, f2, f1]``, each ``(B, C_l, H_l, W_l)``, to ``(B, C_1, H_1, W_1)``."""
        lows: list[Tensor] = []
        highs: list[Tensor] = []
        for i, (decompose, attend) in enumerate(zip(self.decompose, self.attend)):
            low, high = decompose(features[i])
            low, high = attend(low, high)
            lows.append(low)
            highs.append(high)
        low, high = lows[0], highs[0]
        for i, upsample in enumerate(self.upsample):
            low, high = upsample(low, high, lows[i + 1], highs[i + 1])
        decoded: Tensor = self.balance(low, high)
        return decoded


class UNetDecoder(nn.Module):
    """Ablation: bilinear upsampling, concatenation with the finer level, two 3x3 convolutions + BN + ReLU.

    Args:
        channels: channels per level, coarse to fine.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.merge = nn.ModuleList(
            nn.Sequential(conv_bn(coarse + fine, fine, 3), conv_bn(fine, fine, 3))
            for coarse, fine in pairwise(channels)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode ``[f4, f3, f2, f1]``, each ``(B, C_l, H_l, W_l)``, to ``(B, C_1, H_1, W_1)``."""
        x = features[0]
        for i, merge in enumerate(self.merge):
            skip = features[i + 1]
            x = functional.interpolate(x, size=(skip.shape[2], skip.shape[3]), mode="bilinear", align_corners=False)
            x = merge(torch.cat((x, skip), dim=1))
        return x


DECODERS: dict[str, type[nn.Module]] = {"fgd": FrequencyGuidedDecoder, "unet": UNetDecoder}
