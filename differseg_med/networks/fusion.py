"""Fusion of one level: several modality features in, one out; DPF (the paper's, NETWORK.md section 3) and ablations.

Every fusion maps features ``(B, M * C, H, W)``, modality-major, and ``present`` (bool ``(B, M)``, at least one True per
row; None when all are present) to ``(B, C, H, W)``, and does not depend on what an absent modality's features hold.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from differseg_med.networks.blocks import conv_bn

SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
SOBEL_Y = ((-1.0, -2.0, -1.0), (0.0, 0.0, 0.0), (1.0, 2.0, 1.0))
LAPLACIAN = ((0.0, -1.0, 0.0), (-1.0, 4.0, -1.0), (0.0, -1.0, 0.0))


def present_modalities(x: Tensor, in_channels: list[int]) -> Tensor:
    """Which modalities each sample of ``(B, sum(in_channels), H, W)`` has: bool ``(B, M)``; zeros alone are absent."""
    there = x.abs().flatten(2).amax(dim=2) != 0  # by channel: NaN is something
    return torch.stack([part.any(dim=1) for part in there.split(in_channels, dim=1)], dim=1)


def split_present(features: Tensor, num_modalities: int, present: Tensor | None) -> Tensor:
    """View ``(B, M * C, H, W)`` as ``(B, M, C, H, W)`` with absent modalities set to zero."""
    b, _, h, w = features.shape
    streams = features.reshape(b, num_modalities, -1, h, w)
    if present is not None:
        # Not a product: what an absent stream holds may be inf or NaN, and 0 * inf is NaN.
        streams = streams.masked_fill(~present[:, :, None, None, None], 0.0)
    return streams


class DifferentialPerceptionFusion(nn.Module):
    """Fuse the features of ``num_modalities`` streams by their differences and their low frequencies.

    Beyond the paper: any number of modalities, and modalities that are absent in a sample. An absent modality's
    projection is zero, its weight is exactly zero (logit of minus infinity) and it leaves the residual sum, so the
    output does not depend on what its features hold.

    Args:
        channels: channels ``C`` of each stream and of the output.
        num_modalities: number of streams ``M``; with one stream the weight map is 1 everywhere.
    """

    def __init__(self, channels: int, num_modalities: int = 2) -> None:
        super().__init__()
        c, m = channels, num_modalities
        self.channels, self.num_modalities = c, m
        # One projection per modality, kept as one grouped convolution over (B, M * C, H, W).
        self.project = nn.Conv2d(m * c, m * c, 1, groups=m)
        self.kernels = nn.Parameter(torch.tensor((SOBEL_X, SOBEL_Y, LAPLACIAN)).unsqueeze(1))
        self.weigh = nn.Sequential(conv_bn(m * c, c, 3), nn.Conv2d(c, m, 1)) if m > 1 else nn.Identity()
        self.unite = nn.Sequential(conv_bn(3 * c, c, 3), conv_bn(c, c, 3, relu=False))
        self.integrate = nn.Sequential(conv_bn(2 * c, c, 3), conv_bn(c, c, 1, relu=False))

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Fuse one level; shapes as in the module's docstring."""
        m, c = self.num_modalities, self.channels
        # Absent features are zeroed before the projection for its gradient's sake, and after it because of its bias.
        projected = self.project(split_present(features, m, present).flatten(1, 2))
        streams = split_present(projected, m, present)
        projected = streams.flatten(1, 2)
        weights = torch.ones_like(projected[:, :1])
        if m > 1:
            logits = self.weigh(projected)
            if present is not None:
                logits = logits.masked_fill(~present[:, :, None, None], float("-inf"))
            weights = logits.softmax(dim=1)

        # One 3x3 kernel serves every channel of every modality: a depthwise convolution with a repeated kernel.
        differences: list[Tensor] = []
        for k in range(3):
            kernel = self.kernels[k].expand(m * c, 1, 3, 3)
            difference = functional.conv2d(projected, kernel, padding=1, groups=m * c)
            differences.append((weights.unsqueeze(2) * difference.view_as(streams)).sum(dim=1))
        united = self.unite(torch.cat(differences, dim=1))
        smooth = functional.avg_pool2d(projected, 3, stride=1, padding=1).view_as(streams)
        low = (functional.avg_pool2d(weights, 3, stride=1, padding=1).unsqueeze(2) * smooth).sum(dim=1)
        fused: Tensor = self.integrate(torch.cat((united, low), dim=1)) + streams.sum(dim=1)
        return fused


class ConcatFusion(nn.Module):
    """Ablation: concatenate the streams (absent ones as zeros) and merge them with one 3x3 convolution + BN + ReLU."""

    def __init__(self, channels: int, num_modalities: int = 2) -> None:
        super().__init__()
        self.num_modalities = num_modalities
        self.merge = conv_bn(num_modalities * channels, channels, 3)

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Fuse one level; shapes as in the module's docstring."""
        fused: Tensor = self.merge(split_present(features, self.num_modalities, present).flatten(1, 2))
        return fused


class MeanFusion(nn.Module):
    """Ablation: the mean of the present streams. With one modality this is the feature itself, in every network."""

    def __init__(self, channels: int, num_modalities: int = 2) -> None:
        super().__init__()
        self.num_modalities = num_modalities

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Fuse one level; shapes as in the module's docstring."""
        total = split_present(features, self.num_modalities, present).sum(dim=1)
        if present is None:
            return total / self.num_modalities
        return total / present.sum(dim=1).to(total.dtype)[:, None, None, None]


FUSIONS: dict[str, type[nn.Module]] = {
    "dpf": DifferentialPerceptionFusion,
    "concat": ConcatFusion,
    "mean": MeanFusion,
}
