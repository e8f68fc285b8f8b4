"""The DifferSeg network: shared encoder, RFB reduction, DPF per level, FGD, prediction heads; NETWORK.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from differseg_med.networks.blocks import ReceptiveFieldBlock, SegmentationHead
from differseg_med.networks.decoder import FrequencyGuidedDecoder
from differseg_med.networks.encoders import StreamStem, build_encoder, check_input_size
from differseg_med.networks.fusion import DifferentialPerceptionFusion


class DifferSeg(nn.Module):
    """Multimodal binary segmentation of images or slices.

    The input is one tensor whose channels are the modalities in declared order; a modality whose channels are all
    exactly zero in a sample is absent there, and the output does not depend on it. If everything is zero (an empty
    background tile), every modality counts as present.

    Args:
        in_channels: channels per modality; for 2.5D the number of neighbouring slices, in ascending order.
        encoder: timm model name with feature strides 4, 8, 16, 32.
        decoder_channels: channels per level, fine to coarse (stride 4, 8, 16, 32), multiples of 8.
        pretrained: fetch timm's weights for the encoder from its hub.
        encoder_weights: local file with weights for the encoder, or ``"package"`` (see `build_encoder`).
        adapter_dim: width of the adapters of a transformer encoder; None for none.
        freeze_encoder: train the adapters only, not the encoder around them.
        gradient_checkpointing: trade time for memory in the encoder.
        deep_supervision: in training return ``[main, aux2, aux3, aux4]`` instead of the main logits only.

    Raises:
        ValueError: for impossible channel numbers, an unfit encoder, or (in forward) an unfit input.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (1, 1, 1),
        encoder: str = "tf_efficientnet_lite0",
        decoder_channels: Sequence[int] = (32, 48, 64, 96),
        *,
        pretrained: bool = False,
        encoder_weights: str | None = None,
        adapter_dim: int | None = None,
        freeze_encoder: bool = False,
        gradient_checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        if len(in_channels) == 0 or min(in_channels) < 1:
            raise ValueError(f"in_channels needs one positive entry per modality, got {tuple(in_channels)}")
        if len(decoder_channels) != 4:
            raise ValueError(f"decoder_channels needs four entries (stride 4 to 32), got {tuple(decoder_channels)}")
        self.in_channels = [int(c) for c in in_channels]
        self.num_modalities = len(self.in_channels)
        self.deep_supervision = deep_supervision
        self.stems = nn.ModuleList(StreamStem(c) for c in self.in_channels)
        self.encoder, encoder_channels = build_encoder(
            encoder,
            pretrained=pretrained,
            encoder_weights=encoder_weights,
            adapter_dim=adapter_dim,
            freeze=freeze_encoder,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.reduce = nn.ModuleList(ReceptiveFieldBlock(i, o) for i, o in zip(encoder_channels, decoder_channels))
        if self.num_modalities > 1:
            self.fuse = nn.ModuleList(DifferentialPerceptionFusion(c, self.num_modalities) for c in decoder_channels)
        else:
            self.fuse = nn.ModuleList()
        self.decode = FrequencyGuidedDecoder(list(decoder_channels)[::-1])
        self.heads = nn.ModuleList(SegmentationHead(c) for c in decoder_channels)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment.

        Args:
            x: ``(B, sum(in_channels), H, W)``, modality-major; H and W multiples of 32.

        Returns:
            Logits ``(B, 1, H, W)``; in training with deep supervision ``[main, aux2, aux3, aux4]`` of that shape.
        """
        if x.shape[1] != sum(self.in_channels):
            raise ValueError(f"expected {sum(self.in_channels)} channels {self.in_channels}, got {x.shape[1]}")
        check_input_size(x.shape[2], x.shape[3])
        size = (x.shape[2], x.shape[3])
        streams, present = self.split_streams(x)
        fused = self.encode(streams, present)
        main: Tensor = self.heads[0](self.decode(fused[::-1]), size)
        if not (self.training and self.deep_supervision):
            return main
        return [main] + [head(level, size) for head, level in zip(list(self.heads)[1:], fused[1:])]

    def split_streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the input into three-channel streams ``(B * M, 3, H, W)``, batch-major, and presence ``(B, M)``."""
        parts = x.split(self.in_channels, dim=1)
        present = torch.stack([(part != 0).flatten(1).any(dim=1) for part in parts], dim=1)
        present = present | ~present.any(dim=1, keepdim=True)
        images = torch.stack([stem(part) for stem, part in zip(self.stems, parts)], dim=1)
        return images.flatten(0, 1), present

    def encode(self, streams: Tensor, present: Tensor) -> list[Tensor]:
        """Encode, reduce and fuse: four levels ``(B, C_l, H_l, W_l)``, fine to coarse."""
        b, m = present.shape
        # In training, absent streams are left out so that empty images do not enter the batch norm statistics;
        # in evaluation each sample is computed by itself and DPF ignores the absent ones.
        skip = self.training and not bool(present.all())
        index = present.flatten().nonzero().squeeze(1) if skip else None
        levels = self.encoder(streams if index is None else streams[index])
        fused: list[Tensor] = []
        for i, level in enumerate(levels):
            reduced = self.reduce[i](level)
            if index is not None:
                reduced = reduced.new_zeros((b * m, *reduced.shape[1:])).index_copy(0, index, reduced)
            c, h, w = reduced.shape[1:]
            if m > 1:
                reduced = self.fuse[i](reduced.reshape(b, m * c, h, w), present)
            fused.append(reduced)
        return fused
