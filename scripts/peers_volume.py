"""Networks of MONAI for volumes, trained for a given time on the packed patients of `crossvalidate_packed.py`.

They get what the bundle's network gets: the same patients, loss, modality dropout and average of weights, and so many
seconds instead of so many steps. Patches, augmentation and optimizer are those of MONAI's examples and of nnU-Net;
none was tuned.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet, SegResNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from differseg_med.transforms.modalities import RandModalityDropoutd

PATCH = (96, 96, 96)
BATCH = 2
DROPOUT = 0.5
"""As configs/sts_gpu.yaml."""
DECAY = 0.99
"""Of the average of weights: these networks make fewer steps in the same time than slices do."""


def build(name: str, modalities: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and the optimizer that its authors use."""
    if name == "segresnet":  # as Auto3DSeg
        network: nn.Module = SegResNet(3, 32, modalities, 1, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
        return network, torch.optim.AdamW(network.parameters(), lr=4e-4, weight_decay=1e-5)
    kernels, strides = [[3, 3, 3]] * 5, [[1, 1, 1], *([[2, 2, 2]] * 4)]
    network = DynUNet(
        3, modalities, 1, kernels, strides, strides[1:], deep_supervision=True, deep_supr_num=3, res_block=False
    )
    return network, torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)


def augmentation(size: Sequence[int], modalities: int) -> Compose:
    """Patches around target and elsewhere, moved, mirrored, with other intensities, some without some modality."""
    both = ["image", "label"]
    turn = 0.26  # radians, 15 degrees
    return Compose(
        [
            RandCropByPosNegLabeld(both, "label", size, pos=2, neg=1, num_samples=BATCH),
            RandAffined(
                both, prob=0.5, rotate_range=[turn] * 3, scale_range=[0.2] * 3, mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandGaussianNoised("image", prob=0.15, std=0.1),
            RandScaleIntensityd("image", factors=0.25, prob=0.3, channel_wise=True),
            RandShiftIntensityd("image", offsets=0.1, prob=0.3, channel_wise=True),
            RandAdjustContrastd("image", prob=0.15, gamma=(0.7, 1.5), retain_stats=True),
            RandModalityDropoutd("image", [1] * modalities, prob=DROPOUT),
        ]
    )  # fmt: skip


def train_volume(name: str, items: list[dict[str, Any]], seconds: float, device: torch.device) -> tuple[nn.Module, int]:
    """Train for so many seconds; the averaged network and its steps. Learning rates fall to zero with the time."""
    modalities = len(items[0]["image"])
    network, optimizer = build(name, modalities)
    network = network.to(device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    loss_of = DiceCELoss(sigmoid=True, batch=True)
    pad, augment = SpatialPadd(["image", "label"], PATCH), augmentation(PATCH, modalities)
    cases = [pad({key: item[key].to(device) for key in ("image", "label")}) for item in items]
    rates, steps, started = [group["lr"] for group in optimizer.param_groups], 0, time.monotonic()
    while (passed := (time.monotonic() - started) / seconds) < 1:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1.0, (steps + 1) / 20) * (1 - passed) ** 0.9
        patches = augment(cases[int(torch.randint(len(cases), ()))])
        image = torch.stack([torch.as_tensor(patch["image"]) for patch in patches])
        label = torch.stack([patch["label"].as_tensor() for patch in patches])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found = network(image)
        found = found.float()
        outputs = found.unbind(1) if found.dim() == 6 else [found]  # deep supervision: one output per level
        weights = torch.tensor([0.5**n for n in range(len(outputs))])
        losses = torch.stack([loss_of(output, label) for output in outputs])
        loss = (losses * (weights / weights.sum()).to(device)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        average.update_parameters(network)
        steps += 1
        if device.type == "cuda":
            torch.cuda.synchronize()  # or the time would be that of launching
    return average.module.eval(), steps


@torch.no_grad()
def predict_volume(network: nn.Module, volume: Tensor) -> Tensor:
    """Probabilities ``(R, A, S)`` of ``(M, R, A, S)`` from overlapping patches."""
    inferer = SlidingWindowInferer(PATCH, sw_batch_size=4, overlap=0.5, mode="gaussian")
    with torch.autocast(volume.device.type, torch.bfloat16, enabled=volume.device.type == "cuda"):
        logits = inferer(volume[None], network)
    return logits[0, 0].float().sigmoid()
