"""NETWORK.md word for word, with the authors' names and none of our shortcuts: the baseline to test and time against.

One pass per modality, three reshaped convolutions per modality in DPF, separate parallel branches, auxiliary heads in
evaluation too. It knows no absent modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from differseg_med.networks.checkpoints import convert_reference_state_dict

STREAMS = ("rgb_proj", "depth_proj", "third_proj", "fourth_proj", "fifth_proj")


class Conv(nn.Module):
    """Convolution without bias and batch norm."""

    def __init__(self, i: int, o: int, kernel: tuple[int, int], dilation: int = 1) -> None:
        super().__init__()
        padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
        self.conv = nn.Conv2d(i, o, kernel, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Reduction(nn.Module):
    """Section 2."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(Conv(i, o, (1, 1)))
        self.branch1, self.branch2, self.branch3 = (
            nn.Sequential(Conv(i, o, (1, 1)), Conv(o, o, (1, k)), Conv(o, o, (k, 1)), Conv(o, o, (3, 3), dilation=k))
            for k in (3, 5, 7)
        )
        self.conv_cat = Conv(4 * o, o, (3, 3))
        self.conv_res = Conv(i, o, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)]
        return torch.relu(self.conv_cat(torch.cat(branches, 1)) + self.conv_res(x))


class Fusion(nn.Module):
    """Section 3, for any number of modalities that are all present."""

    def __init__(self, c: int, modalities: int = 2) -> None:
        super().__init__()
        self.streams = STREAMS[:modalities]
        for name in self.streams:
            setattr(self, name, nn.Conv2d(c, c, 1))
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        laplacian = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
        self.learnable_diff_x = nn.Parameter(sobel.view(1, 1, 3, 3))
        self.learnable_diff_y = nn.Parameter(sobel.t().contiguous().view(1, 1, 3, 3))
        self.learnable_laplacian = nn.Parameter(laplacian.view(1, 1, 3, 3))
        self.complementarity_net = nn.Sequential(
            nn.Conv2d(modalities * c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, modalities, 1)
        )
        self.fusion_net = nn.Sequential(
            nn.Conv2d(3 * c, c, 3, padding=1),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1),
            nn.BatchNorm2d(c),
        )
        self.integration_net = nn.Sequential(
            nn.Conv2d(2 * c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1), nn.BatchNorm2d(c)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        projected = [getattr(self, name)(f) for name, f in zip(self.streams, features)]
        b, c, h, w = projected[0].shape
        weights = self.complementarity_net(torch.cat(projected, 1)).softmax(1)
        merged = []
        for kernel in (self.learnable_diff_x, self.learnable_diff_y, self.learnable_laplacian):
            parts = [
                functional.conv2d(p.reshape(b * c, 1, h, w), kernel, padding=1).view(b, c, h, w) for p in projected
            ]
            merged.append(sum(weights[:, m : m + 1] * part for m, part in enumerate(parts)))
        united = self.fusion_net(torch.cat(merged, 1))
        smooth = [functional.avg_pool2d(p, 3, stride=1, padding=1) for p in projected]
        low = sum(
            functional.avg_pool2d(weights[:, m : m + 1], 3, stride=1, padding=1) * s for m, s in enumerate(smooth)
        )
        return self.integration_net(torch.cat([united, low], 1)) + sum(projected)


class Decomposer(nn.Module):
    """Section 4, decomposer."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.low_pass_3x3, self.low_pass_5x5, self.low_pass_7x7 = (
            nn.Conv2d(c, c, k, padding=k // 2, groups=c) for k in (3, 5, 7)
        )
        self.low_freq_attention = nn.Sequential(
            nn.Conv2d(3 * c, c, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 3, 1)
        )
        self.low_freq_fusion = nn.Sequential(nn.Conv2d(3 * c, c, 1), nn.BatchNorm2d(c))  # never used
        self.high_freq_branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c // 4, k, padding=k // 2), nn.BatchNorm2d(c // 4), nn.ReLU()) for k in (1, 3, 5)
        )
        self.high_freq_fusion = nn.Sequential(nn.Conv2d(3 * (c // 4), c, 1), nn.BatchNorm2d(c), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        smooth = [self.low_pass_3x3(x), self.low_pass_5x5(x), self.low_pass_7x7(x)]
        a = self.low_freq_attention(torch.cat(smooth, 1)).softmax(1)
        low = sum(a[:, i : i + 1] * s for i, s in enumerate(smooth))
        rest = x - low
        return low, rest * self.high_freq_fusion(torch.cat([branch(rest) for branch in self.high_freq_branches], 1))


class ScaleAttention(nn.Module):
    """Section 4, scale attention of all levels."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.low_freq_attention, self.high_freq_attention = (
            nn.ModuleList(
                nn.Sequential(
                    nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 8, 1), nn.ReLU(), nn.Conv2d(c // 8, c, 1), nn.Sigmoid()
                )
                for c in channels
            )
            for _ in range(2)
        )
        self.freq_interaction = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c, 3, padding=1, groups=c // 8), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1)
            )
            for c in channels
        )

    def forward(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        refined = []
        for i, (low, high) in enumerate(pairs):
            shared = 0.1 * self.freq_interaction[i](low * high)
            new_low = low * self.low_freq_attention[i](low) + shared
            refined.append((new_low, high * self.high_freq_attention[i](high) + shared))
        return refined


class Upsampler(nn.Module):
    """Section 4, frequency upsampler."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.low_upsamplers, self.high_upsamplers = (
            nn.ModuleList(
                nn.Sequential(nn.ConvTranspose2d(i, o, 4, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
                for _ in range(3)
            )
            for _ in range(2)
        )
        self.low_transforms, self.high_transforms = (
            nn.ModuleList(nn.Conv2d(o, o, k, padding=k // 2, groups=o // 4) for k in (1, 3, 5)) for _ in range(2)
        )
        self.path_selector = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(6 * o, o // 2, 1), nn.ReLU(), nn.Conv2d(o // 2, 6, 1)
        )
        self.detail_recovery = nn.Sequential(
            nn.Conv2d(4 * o, o, 3, padding=1),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=2, dilation=2),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Conv2d(o, o, 1),
        )

    def forward(self, coarse_low: Tensor, coarse_high: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        paths = []
        for x, ups, transforms in (
            (coarse_low, self.low_upsamplers, self.low_transforms),
            (coarse_high, self.high_upsamplers, self.high_transforms),
        ):
            for up, transform in zip(ups, transforms):
                y = up(x)
                if y.shape[2:] != low.shape[2:]:
                    y = functional.interpolate(y, size=low.shape[2:], mode="bilinear", align_corners=False)
                paths.append(transform(y))
        s = self.path_selector(torch.cat(paths, 1)).softmax(1)
        new_low = 0.6 * sum(s[:, i : i + 1] * paths[i] for i in range(3)) + 0.4 * low
        new_high = 0.6 * sum(s[:, i : i + 1] * paths[i] for i in range(3, 6)) + 0.4 * high
        detail = self.detail_recovery(torch.cat([new_low, new_high, low, high], 1))
        return new_low + 0.3 * detail, new_high + 0.3 * detail


class Balancer(nn.Module):
    """Section 4, balancer."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight_predictor = nn.Sequential(nn.Conv2d(2 * c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, 2, 1))
        self.final_fusion = nn.Sequential(
            nn.Conv2d(2 * c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1)
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        w = self.weight_predictor(torch.cat([low, high], 1).mean((2, 3), keepdim=True)).softmax(1)
        return self.final_fusion(torch.cat([w[:, :1] * low, w[:, 1:] * high], 1)) + 0.5 * (low + high)


class Decoder(nn.Module):
    """Section 4, all of it."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.freq_decomposers = nn.ModuleList(Decomposer(c) for c in channels)
        self.scale_attention = ScaleAttention(channels)
        self.freq_guided_upsamplers = nn.ModuleList(Upsampler(i, o) for i, o in pairwise(channels))
        self.freq_balancer = Balancer(channels[-1])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        pairs = self.scale_attention([split(f) for split, f in zip(self.freq_decomposers, features)])
        low, high = pairs[0]
        for upsample, pair in zip(self.freq_guided_upsamplers, pairs[1:]):
            low, high = upsample(low, high, *pair)
        return self.freq_balancer(low, high)


class LiteralDifferSeg(nn.Module):
    """The whole network. ``encoder`` maps ``(B, 3, H, W)`` to four levels of ``encoder_channels``."""

    def __init__(
        self,
        encoder: nn.Module,
        encoder_channels: Sequence[int],
        in_channels: Sequence[int] = (3, 1),
        channels: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        self.in_channels = list(in_channels)
        self.encoder = encoder
        for i, (wide, c) in enumerate(zip(encoder_channels, channels), start=1):
            setattr(self, f"rfb{i}", Reduction(wide, c))
            if len(in_channels) > 1:
                setattr(self, f"dpf{i}", Fusion(c, len(in_channels)))
            head = [nn.Conv2d(c, c, 3, padding=1, groups=c), nn.BatchNorm2d(c), nn.GELU(), nn.Conv2d(c, 1, 1)]
            setattr(self, f"predtrans{i}", nn.Sequential(*head))
        self.freq_decoder = Decoder(list(channels)[::-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return ``[main, aux2, aux3, aux4]``, each ``(B, 1, H, W)``."""
        streams = []
        for part in x.split(self.in_channels, 1):
            levels = self.encoder(part.repeat(1, 3, 1, 1) if part.shape[1] == 1 else part)
            streams.append([getattr(self, f"rfb{i}")(level) for i, level in enumerate(levels, start=1)])
        fused = [
            getattr(self, f"dpf{i}")(features) if len(features) > 1 else features[0]
            for i, features in enumerate(zip(*streams), start=1)
        ]
        fused = [self.freq_decoder(fused[::-1]), *fused[1:]]
        logits = [getattr(self, f"predtrans{i}")(f) for i, f in enumerate(fused, start=1)]
        return [functional.interpolate(z, size=x.shape[2:], mode="bilinear", align_corners=True) for z in logits]


def our_state_dict(literal: LiteralDifferSeg) -> dict[str, Tensor]:
    """The weights for a `DifferSeg` of the same arguments; the encoder is the same module in both."""
    state = literal.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("encoder.")}
    rest = {key: value for key, value in state.items() if key not in encoder}
    return convert_reference_state_dict(rest, STREAMS[: len(literal.in_channels)]) | encoder


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Move batch norm and the kernels away from their initial values, where many mistakes would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.6, 1.6, generator=generator)
                module.weight.normal_(1, 0.2, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, Fusion):
                for kernel in (module.learnable_diff_x, module.learnable_diff_y, module.learnable_laplacian):
                    kernel.add_(0.3 * torch.randn(kernel.shape, generator=generator))
