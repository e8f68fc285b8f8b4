"""Image encoders: timm models with features at strides 4, 8, 16, 32, and the adapters of a frozen transformer."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from differseg_med.networks.checkpoints import load_encoder_weights

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
        block: block with ``attn.qkv`` (its input width is taken from there); inputs are ``(B, H, W, C)``.
        hidden_dim: width of the bottleneck.
    """

    def __init__(self, block: nn.Module, hidden_dim: int = 32) -> None:
        super().__init__()
        dim = int(block.get_submodule("attn.qkv").in_features)  # type: ignore[arg-type]
        self.block = block
        self.prompt_learn = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to what the block makes of it."""
        out: Tensor = self.block(x + self.prompt_learn(x))
        return out


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
    """Build a timm feature extractor for three-channel images.

    Args:
        name: timm model name.
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
        ValueError: for an unknown name, a model without the four strides, or adapters on a model without blocks.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(f"unknown encoder {name!r}; near: {near or 'none'}; tried here: {list(RECOMMENDED)}")
    indices = _four_stride_indices(name)
    encoder: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=indices)
    if encoder_weights is not None:
        load_encoder_weights(encoder, name, encoder_weights)
    channels = tuple(int(c) for c in encoder.feature_info.channels())  # type: ignore[union-attr,operator]
    if freeze:
        encoder.requires_grad_(False)
    if adapter_dim is not None:
        _add_adapters(encoder, name, adapter_dim)
    if gradient_checkpointing:
        inner = encoder.model if hasattr(encoder, "model") else encoder
        inner.set_grad_checkpointing(True)  # type: ignore[operator]
    return encoder, channels


def _four_stride_indices(name: str) -> tuple[int, ...]:
    """Find which of the model's feature levels have strides 4, 8, 16, 32."""
    with torch.device("meta"):
        probe = timm.create_model(name, pretrained=False, features_only=True)
    available = tuple(int(s) for s in probe.feature_info.reduction())
    if not set(STRIDES) <= set(available):
        raise ValueError(
            f"encoder {name!r} has feature strides {available}, DifferSeg needs {STRIDES}; "
            f"names that work: {list(RECOMMENDED)}"
        )
    return tuple(available.index(s) for s in STRIDES)


def _add_adapters(encoder: nn.Module, name: str, hidden_dim: int) -> None:
    blocks = getattr(getattr(encoder, "model", None), "blocks", None)
    if blocks is None or not hasattr(blocks[0], "attn"):
        raise ValueError(
            f"adapter_dim is for transformer encoders such as sam2_hiera_tiny; {name!r} has no such blocks"
        )
    for i, block in enumerate(blocks):
        blocks[i] = Adapter(block, hidden_dim)


def check_input_size(height: int, width: int) -> None:
    """Refuse sizes that are not multiples of 32.

    Raises:
        ValueError: naming the size to pad to.
    """
    if height % 32 or width % 32:
        target = tuple(32 * -(-s // 32) for s in (height, width))
        raise ValueError(f"height and width must be multiples of 32, got ({height}, {width}); pad to {target}")
