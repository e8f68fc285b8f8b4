"""The DifferSeg network: shared encoder, RFB reduction, DPF per level, FGD, prediction heads; NETWORK.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]  # no such comment may stand in a scripted function

from differseg_med.networks.blocks import ReceptiveFieldBlock, SegmentationHead
from differseg_med.networks.decoder import DECODERS
from differseg_med.networks.encoders import StreamStem, build_encoder, check_input, first_stages
from differseg_med.networks.fusion import FUSIONS, MeanFusion, present_modalities


class DifferSeg(nn.Module):
    """Multimodal binary segmentation of images or slices.

    The input is one tensor whose channels are the modalities in declared order; a modality whose channels are all
    exactly zero in a sample is absent there, and the output does not depend on it. If everything is zero (an empty
    background tile), every modality counts as present.

    Args:
        in_channels: channels per modality; for 2.5D the number of neighbouring slices, in ascending order.
        encoder: timm model name with feature strides 4, 8, 16, 32.
        decoder_channels: channels per level, fine to coarse (stride 4, 8, 16, 32), multiples of 8.
        fusion: ``"dpf"`` joins the modalities as in the paper; ``"concat"`` and ``"mean"`` measure what it brings.
        decoder: ``"fgd"`` as in the paper; ``"unet"`` measures what it brings.
        pretrained: fetch timm's weights for the encoder from its hub.
        encoder_weights: local file with weights for the encoder, or ``"package"`` (see `build_encoder`).
        adapter_dim: width of the adapters of a transformer encoder; None for none.
        freeze_encoder: train the adapters only, not the encoder around them (nor its batch norm statistics).
        freeze_stages: leave the encoder's stem and so many of its first stages as they are, batch norm statistics too:
            their gradients are the dearest, and what they see is edges.
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
        fusion: str = "dpf",
        decoder: str = "fgd",
        pretrained: bool = False,
        encoder_weights: str | None = None,
        adapter_dim: int | None = None,
        freeze_encoder: bool = False,
        freeze_stages: int = 0,
        gradient_checkpointing: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        if len(in_channels) == 0 or min(in_channels) < 1:
            raise ValueError(f"in_channels needs one positive entry per modality, got {tuple(in_channels)}")
        if len(decoder_channels) != 4:
            raise ValueError(f"decoder_channels needs four entries (stride 4 to 32), got {tuple(decoder_channels)}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {tuple(FUSIONS)}, got {fusion!r}")
        if decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {tuple(DECODERS)}, got {decoder!r}")
        self.in_channels = [int(c) for c in in_channels]
        self.num_modalities = len(self.in_channels)
        self.deep_supervision = deep_supervision
        self.freeze_encoder = freeze_encoder
        self.stems = nn.ModuleList(StreamStem(c) for c in self.in_channels)
        self.encoder, encoder_channels = build_encoder(
            encoder,
            pretrained=pretrained,
            encoder_weights=encoder_weights,
            adapter_dim=adapter_dim,
            freeze=freeze_encoder,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.frozen = first_stages(self.encoder, freeze_stages)  # names: modules would be registered twice
        for name in self.frozen:
            self.encoder.get_submodule(name).requires_grad_(False)
        self.reduce = nn.ModuleList(ReceptiveFieldBlock(i, o) for i, o in zip(encoder_channels, decoder_channels))
        fuse = FUSIONS[fusion] if self.num_modalities > 1 else MeanFusion  # of one modality: the feature itself
        self.fuse = nn.ModuleList(fuse(c, self.num_modalities) for c in decoder_channels)
        self.decode = DECODERS[decoder](list(decoder_channels)[::-1])
        self.heads = nn.ModuleList(SegmentationHead(c) for c in decoder_channels)
        self.train()

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment.

        Args:
            x: ``(B, sum(in_channels), H, W)``, modality-major; H and W multiples of 32.

        Returns:
            Logits ``(B, 1, H, W)``; in training with deep supervision ``[main, aux2, aux3, aux4]`` of that shape.
        """
        if not is_tracing():  # there, shapes are not numbers to compare
            check_input(x, self.in_channels)
        alone = self.training and x.shape[0] * x.shape[2] * x.shape[3] == 32 * 32
        if alone:
            # One value per channel at stride 32 has no variance, and batch norm refuses it: add the mirror image.
            x = torch.cat((x, x.flip(3)))
        size = (x.shape[2], x.shape[3])
        streams, present = self.split_streams(x)
        fused = self.encode(streams, present)
        decoded = self.decode(fused[::-1])
        outputs: list[Tensor] = []
        for i, head in enumerate(self.heads):
            if i == 0:
                outputs.append(head(decoded, size))
            elif self.training and self.deep_supervision:
                outputs.append(head(fused[i], size))
        if alone:
            outputs = [output[:1] for output in outputs]
        if len(outputs) == 1:
            return outputs[0]
        return outputs

    def split_streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the input into three-channel streams ``(B * M, 3, H, W)``, batch-major, and presence ``(B, M)``."""
        present = present_modalities(x, self.in_channels)
        present = present | ~present.any(dim=1, keepdim=True)
        if max(self.in_channels) == min(self.in_channels) == 3:  # they are three-channel streams already: no copies
            streams = x.reshape(-1, 3, x.shape[2], x.shape[3])
        else:
            parts = x.split(self.in_channels, dim=1)
            images: list[Tensor] = []
            for i, stem in enumerate(self.stems):  # TorchScript cannot zip modules with tensors
                images.append(stem(parts[i]))
            streams = torch.stack(images, dim=1).flatten(0, 1)
        # Convolutions hand this layout on; on a CPU it saves the reordering around each of them.
        return streams.contiguous(memory_format=torch.channels_last), present

    def encode(self, streams: Tensor, present: Tensor) -> list[Tensor]:
        """Encode, reduce and fuse: four levels ``(B, C_l, H_l, W_l)``, fine to coarse."""
        return self.fuse_levels(self.reduce_streams(streams, present), present)

    def reduce_streams(self, streams: Tensor, present: Tensor) -> list[Tensor]:
        """Encode and reduce each stream by itself: four levels ``(B, M * C_l, H_l, W_l)``, modality-major."""
        # In training, absent streams are left out so that empty images do not enter the batch norm statistics;
        # in evaluation each sample is computed by itself and the fusion ignores the absent ones.
        flags, index = present.flatten(), torch.empty(0, dtype=torch.long)
        fill = self.training and streams.is_cuda
        leave_out = self.training and not fill and not bool(present.all())
        if leave_out:
            index = flags.nonzero().squeeze(1)
            streams = streams[index]
        elif fill:
            # A GPU plans its convolutions anew for every number of streams, for seconds: those that are there are
            # repeated in place of the absent ones, without asking the GPU how many there are.
            index = torch.argsort(1 - flags.long(), stable=True)
            index = index.index_select(0, torch.arange(flags.numel(), device=flags.device) % flags.sum())
            streams = streams.index_select(0, index)
        levels = self.encoder(streams)
        features: list[Tensor] = []
        for i, reduce in enumerate(self.reduce):
            reduced = reduce(levels[i])
            if leave_out:
                full = reduced.new_zeros((present.numel(), reduced.shape[1], reduced.shape[2], reduced.shape[3]))
                reduced = full.index_copy(0, index, reduced)
            elif fill:
                reduced = reduced.index_select(0, (flags.cumsum(0) - 1).clamp(min=0)) * flags[:, None, None, None]
            b, c, h, w = reduced.shape
            by_modality = reduced.reshape(b // self.num_modalities, self.num_modalities, c, h, w).unbind(dim=1)
            features.append(torch.cat(by_modality, dim=1))  # unlike reshape, cat keeps channels last
        return features

    def fuse_levels(self, features: list[Tensor], present: Tensor) -> list[Tensor]:
        """Fuse what `reduce_streams` gives, with the modalities that ``present`` ``(B, M)`` allows."""
        fused: list[Tensor] = []
        for i, fuse in enumerate(self.fuse):
            fused.append(fuse(features[i], present))
        return fused

    def train(self, mode: bool = True) -> DifferSeg:
        """Switch to training or evaluation; what is frozen stays in evaluation, or its statistics would drift."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        for name in self.frozen:
            self.encoder.get_submodule(name).eval()
        return self
