"""Image encoders: timm models with features at strides 4, 8, 16, 32, and the adapters of a frozen transformer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from differseg_med.networks.checkpoints import load_encoder_weights, without_memory

STRIDES = (4, 8, 16, 32)
#: Encoders that were tried in this project; any other timm model with the same strides works too.
RECOMMENDED = (
    "tf_efficientnet_lite0",
    "resnet34",
    "convnext_tiny",
    "pvt_v2_b2",
    "sam2_hiera_tiny",
    "sam2_hiera_small",
    "sam2_hiera_base_plus",
    "sam2_hiera_large",
)


class Adapter(nn.Module):
    """Transformer block behind a small bottleneck: ``block(x + GELU(W2 GELU(W1 x)))``; NETWORK.md section 1.

    With ``W2`` and its bias zero the adapted block equals the plain one exactly.

    Args:
        block: block whose input width is that of ``attn.qkv`` or else of ``norm1``; inputs are ``(B, ..., C)``.
        hidden_dim: width of the bottleneck.
    """

    def __init__(self, block: nn.Module, hidden_dim: int = 32) -> None:
        super().__init__()
        qkv = getattr(block.attn, "qkv", None)
        dim = int(qkv.in_features if qkv is not None else block.norm1.weight.shape[0])  # type: ignore[union-attr,index]
        self.block = block
        self.prompt_learn = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim), nn.GELU())

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Map ``(B, ..., C)`` to what the block makes of it; some blocks take the feature size as a second argument."""
        out: Tensor = self.block(x + self.prompt_learn(x), *args)
        return out


class ChannelsFirst(nn.Module):
    """Turn the ``(B, H, W, C)`` features of encoders such as Swin into ``(B, C, H, W)``."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode ``(B, 3, H, W)``."""
        return [level.permute(0, 3, 1, 2) for level in self.encoder(x)]


class StreamStem(nn.Module):
    """Give a stream of ``in_channels`` the three channels that image encoders expect.

    One channel is repeated, three pass unchanged (for 2.5D these are neighbouring slices), any other number goes
    through a 1x1 convolution without bias that starts as an average. Zero stays zero in every case.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.mix: nn.Module = nn.Identity()
        if in_channels not in (1, 3):
            mix = nn.Conv2d(in_channels, 3, 1, bias=False)
            nn.init.constant_(mix.weight, 1.0 / in_channels)
            self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, 3, H, W)``."""
        if self.in_channels == 1:
            return x.expand(-1, 3, -1, -1)
        out: Tensor = self.mix(x)
        return out


def build_encoder(
    name: str,
    *,
    pretrained: bool = False,
    encoder_weights: str | None = None,
    adapter_dim: int | None = None,
    freeze: bool = False,
    gradient_checkpointing: bool = False,
) -> tuple[nn.Module, tuple[int, ...]]:
    """Build the encoder of a name: one of `ENCODERS`, else a model of timm.

    Args:
        name: a key of `ENCODERS`, or a timm model's name.
        pretrained: fetch timm's own weights from its hub (needs a network).
        encoder_weights: local file of weights for the whole timm model (.pt, .pth or .safetensors, plain tensors),
            or ``"package"`` for those of an installed Python package.
        adapter_dim: wrap every transformer block in an `Adapter` of this width.
        freeze: no gradients for the encoder except in its adapters.
        gradient_checkpointing: recompute activations in the backward pass to save memory.

    Returns:
        The extractor, whose output for ``(B, 3, H, W)`` is a list of four maps ``(B, C_l, H / s, W / s)`` with
        s = 4, 8, 16, 32, and the four ``C_l``.

    Raises:
        ValueError: for an unknown name or an unfit model (with the nearest names that do work), or for adapters on a
            model without transformer blocks, or whose blocks keep the channels elsewhere than in the last axis.
    """
    return ENCODERS.get(name, timm_encoder)(
        name,
        pretrained=pretrained,
        encoder_weights=encoder_weights,
        adapter_dim=adapter_dim,
        freeze=freeze,
        gradient_checkpointing=gradient_checkpointing,
    )


def timm_encoder(
    name: str,
    *,
    pretrained: bool = False,
    encoder_weights: str | None = None,
    adapter_dim: int | None = None,
    freeze: bool = False,
    gradient_checkpointing: bool = False,
) -> tuple[nn.Module, tuple[int, ...]]:
    """Build a timm feature extractor for three-channel images, see `build_encoder`.

    Raises:
        ValueError: for an unknown name or an unfit model (with the nearest names that do work), or for adapters on a
            model without transformer blocks, or whose blocks keep the channels elsewhere than in the last axis.
    """
    if not timm.is_model(name):
        raise ValueError(f"unknown encoder {name!r}; near it and fit: {_nearest_fit(name)}; tried: {list(RECOMMENDED)}")
    try:
        indices = _levels(name)
        encoder = _create(name, pretrained=pretrained, out_indices=indices)
        if name not in _LAYOUTS:
            _LAYOUTS[name] = _channels_last(encoder)
        channels_last = _LAYOUTS[name]
    except ValueError as error:
        near = f"near it and fit: {_nearest_fit(name)}; tried: {list(RECOMMENDED)}"
        raise ValueError(f"encoder {name!r} {error}; {near}") from error
    if encoder_weights is not None:
        load_encoder_weights(encoder, name, encoder_weights)
    channels = tuple(int(c) for c in encoder.feature_info.channels())
    if freeze:
        encoder.requires_grad_(False)
    if adapter_dim is not None:
        _add_adapters(encoder, name, adapter_dim)
        _probe_adapters(name, adapter_dim)
    if gradient_checkpointing:
        getattr(encoder, "model", encoder).set_grad_checkpointing(True)
    return ChannelsFirst(encoder) if channels_last else encoder, channels


ENCODERS: dict[str, Callable[..., tuple[nn.Module, tuple[int, ...]]]] = {"timm": timm_encoder}
"""Builders by the encoder's name, with the arguments of `build_encoder`. Any other name is one of timm's models."""


def first_stages(encoder: nn.Module, count: int) -> list[str]:
    """Names of the modules before stage ``count`` of an encoder in the manner of EfficientNet; none for 0.

    Raises:
        ValueError: if the encoder is not made of a stem and that many stages.
    """
    if count == 0:
        return []
    names = [name for name in ("conv_stem", "bn1") if hasattr(encoder, name)]
    stages = len(getattr(encoder, "blocks", ()))
    if len(names) < 2 or not 0 < count <= stages:
        raise ValueError(f"freeze_stages={count} needs an encoder with a stem and at least as many stages")
    return names + [f"blocks.{i}" for i in range(count)]


def _create(name: str, **options: Any) -> Any:
    """Create a feature extractor that takes any image size, where the model lets us choose."""
    try:
        return timm.create_model(name, features_only=True, strict_img_size=False, **options)
    except TypeError:
        return timm.create_model(name, features_only=True, **options)


_LAYOUTS: dict[str, bool] = {}
"""What `_channels_last` found, by model: an ensemble, or a second run of a process, need not try it again."""


@cache
def _levels(name: str) -> tuple[int, ...]:
    """Which of a model's feature levels have strides 4, 8, 16, 32; on the meta device, without memory.

    Raises:
        ValueError: with the reason why DifferSeg cannot use it.
    """
    with without_memory():
        try:  # whatever timm's many models raise, it means the same here
            model = _create(name, pretrained=False)
        except Exception as error:
            raise ValueError(f"cannot be made a feature extractor ({error})") from error
    strides = tuple(int(s) for s in model.feature_info.reduction())
    if not set(STRIDES) <= set(strides):
        raise ValueError(f"has feature strides {strides}, but DifferSeg needs {STRIDES}")
    return tuple(strides.index(s) for s in STRIDES)


@torch.no_grad()
def _channels_last(encoder: Any) -> bool:
    """Whether an extractor of the strides 4, 8, 16, 32 gives ``(B, H, W, C)``, found by trying it where it is.

    On the meta device this would import torch's compiler, which takes longer than a small prediction.

    Raises:
        ValueError: with the reason why DifferSeg cannot use it.
    """
    height, width = 64, 96
    training, place = encoder.training, next(encoder.parameters())
    encoder.eval()
    try:
        levels = encoder(torch.zeros(1, 3, height, width, device=place.device, dtype=place.dtype))
    except Exception as error:  # whatever it is
        raise ValueError(f"takes no images of {height} x {width} ({error})") from error
    finally:
        encoder.train(training)
    expected = [(height // s, width // s, c) for s, c in zip(STRIDES, encoder.feature_info.channels())]
    for channel_axis in (1, -1):
        if [tuple(level.movedim(channel_axis, -1).shape[1:]) for level in levels] == expected:
            return channel_axis == -1
    raise ValueError(f"gives features of unexpected shapes {[tuple(level.shape) for level in levels]}")


def _nearest_fit(name: str, count: int = 3) -> list[str]:
    """Names nearest in spelling of models that DifferSeg can use."""
    fit: list[str] = []
    for candidate in get_close_matches(name, timm.list_models(), n=12, cutoff=0.4):
        with suppress(ValueError):
            with without_memory():
                _channels_last(_create(candidate, pretrained=False, out_indices=_levels(candidate)))
            fit.append(candidate)
        if len(fit) == count:
            break
    return fit


def _add_adapters(encoder: nn.Module, name: str, hidden_dim: int) -> None:
    """Wrap every transformer block, wherever the model keeps them."""
    blocks = [
        (parent, key, child)
        for parent in encoder.modules()
        for key, child in parent.named_children()
        if hasattr(child, "attn") and hasattr(child, "norm1")
    ]
    if not blocks:
        raise ValueError(
            f"adapter_dim is for transformer encoders such as sam2_hiera_tiny; {name!r} has no such blocks"
        )
    for parent, key, block in blocks:
        setattr(parent, key, Adapter(block, hidden_dim))


def _probe_adapters(name: str, hidden_dim: int) -> None:
    """Try the adapted model on the meta device, so that a block which adapters do not fit is found here.

    Raises:
        ValueError: with the reason.
    """
    with without_memory(), torch.no_grad():
        model = _create(name, pretrained=False).eval()
        _add_adapters(model, name, hidden_dim)
        try:
            model(torch.empty(1, 3, 64, 96))
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"adapters do not fit the blocks of {name!r}, which keep channels in another axis than the last "
                f"({reason}); use adapter_dim=None, or sam2_hiera_tiny, pvt_v2_b2"
            ) from error


def check_input(x: Tensor, in_channels: list[int]) -> None:
    """Refuse inputs that are not ``(B, sum(in_channels), H, W)`` with H and W multiples of 32.

    Raises:
        ValueError: naming what came, what is needed and the size to pad to.
    """
    if x.ndim != 4 or x.shape[1] != sum(in_channels):
        raise ValueError(f"expected (B, {sum(in_channels)}, H, W) for channels {in_channels}, got {list(x.shape)}")
    height, width = x.shape[2], x.shape[3]
    if height % 32 != 0 or width % 32 != 0:
        target = [(height + 31) // 32 * 32, (width + 31) // 32 * 32]
        raise ValueError(f"height and width must be multiples of 32, got {[height, width]}; pad to {target}")
