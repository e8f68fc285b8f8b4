"""Training losses on logits, with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss, DiceFocalLoss
from torch import Tensor, nn
from torch.nn import functional


class StructureLoss(nn.Module):
    """Boundary-weighted BCE + IoU; NETWORK.md section 6.

    Pixels near the target's boundary weigh up to six times as much. The authors' script loses the weight in the BCE
    term through a legacy argument; this is the loss that the paper describes.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compare logits with a target in [0, 1], both ``(B, C, H, W)``; returns a scalar."""
        weight = 1 + 5 * (functional.avg_pool2d(target, 31, stride=1, padding=15) - target).abs()
        total = weight.sum(dim=(2, 3))
        bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        bce = (weight * bce).sum(dim=(2, 3)) / total
        p = logits.sigmoid()
        overlap = (weight * p * target).sum(dim=(2, 3))
        union = (weight * (p + target)).sum(dim=(2, 3)) - overlap
        iou = 1 - (overlap + 1) / (union + 1)
        return (bce + iou).mean()


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of one loss over the outputs that `DifferSeg` returns in training.

    Args:
        loss: loss of one output, called as ``loss(logits, target)``.
        weights: one weight per output, main first; the paper's setting is 1 for all.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.loss = loss
        self.weights = tuple(weights)

    def forward(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Sum the loss over outputs of shape ``(B, 1, H, W)``; one tensor counts as the main output.

        Raises:
            ValueError: if there are more outputs than weights.
        """
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        if len(outputs) > len(self.weights):
            raise ValueError(f"{len(outputs)} outputs, but only {len(self.weights)} weights")
        terms = [w * self.loss(output, target) for w, output in zip(self.weights, outputs)]
        return torch.stack(terms).sum()


def dice_ce_loss(
    weights: Sequence[float] = (1.0, 0.4, 0.3, 0.2), *, batch: bool = True, focal_gamma: float = 0.0
) -> DeepSupervisionLoss:
    """Dice + binary cross-entropy with deep supervision, the usual choice for medical tasks.

    Args:
        weights: weight per output, main first.
        batch: Dice over the whole batch instead of per sample; slices without target then do no harm.
        focal_gamma: above 0 a focal loss of this exponent takes the place of cross-entropy: pixels that are sure weigh
            less, which helps where targets are small.
    """
    if focal_gamma > 0:
        return DeepSupervisionLoss(DiceFocalLoss(sigmoid=True, batch=batch, gamma=focal_gamma), weights)
    return DeepSupervisionLoss(DiceCELoss(sigmoid=True, batch=batch), weights)
