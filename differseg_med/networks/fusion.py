"""Differential perception fusion (DPF): several modality features in, one feature out; NETWORK.md section 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from differseg_med.networks.blocks import conv_bn

SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
SOBEL_Y = ((-1.0, -2.0, -1.0), (0.0, 0.0, 0.0), (1.0, 2.0, 1.0))
LAPLACIAN = ((0.0, -1.0, 0.0), (-1.0, 4.0, -1.0), (0.0, -1.0, 0.0))


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
        """Fuse one level.

        Args:
            features: ``(B, M * C, H, W)``, modality-major.
            present: bool ``(B, M)``; every row needs at least one True. None means that all are present.

        Returns:
            ``(B, C, H, W)``.
        """
        b, _, h, w = features.shape
        m, c = self.num_modalities, self.channels
        projected = self.project(features)
        if present is not None:
            # where, not a product: what an absent stream holds may be inf or NaN, and 0 * inf is NaN.
            keep = present.repeat_interleave(c, dim=1)[:, :, None, None]
            projected = torch.where(keep, projected, torch.zeros_like(projected))
        streams = projected.view(b, m, c, h, w)
        if m > 1:
            logits = self.weigh(projected)
            if present is not None:
                logits = logits.masked_fill(~present[:, :, None, None], float("-inf"))
            weights = logits.softmax(dim=1)
        else:
            weights = torch.ones_like(projected[:, :1])

        # One 3x3 kernel serves every channel of every modality: a depthwise convolution with a repeated kernel.
        weighted = weights.unsqueeze(2)
        differences = []
        for kernel in self.kernels:
            d = functional.conv2d(projected, kernel.expand(m * c, 1, 3, 3), padding=1, groups=m * c)
            differences.append((weighted * d.view(b, m, c, h, w)).sum(dim=1))
        united = self.unite(torch.cat(differences, dim=1))
        smooth = functional.avg_pool2d(projected, 3, stride=1, padding=1).view(b, m, c, h, w)
        low = (functional.avg_pool2d(weights, 3, stride=1, padding=1).unsqueeze(2) * smooth).sum(dim=1)
        return self.integrate(torch.cat((united, low), dim=1)) + streams.sum(dim=1)
