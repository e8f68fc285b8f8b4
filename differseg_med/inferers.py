"""2.5D sliding window: volumes through a network that sees a few neighbouring slices at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor

from differseg_med.errors import ConfigError
from differseg_med.transforms.slices import check_slab, from_plane, gather_slabs, to_plane


class SliceWindowInferer(Inferer):
    """Predict a volume slice by slice from slabs of neighbouring slices, tiled in the plane, in one or more planes.

    Each slice is covered by ``roi_size`` windows with gaussian blending (MONAI's sliding window). Slices without any
    signal are not computed: they get ``empty_logit``. With several planes the probabilities are averaged, which
    evens out the steps between slices. The arguments do not change during use.

    Args:
        roi_size: window (rows, columns) in pixels, the size that the network was trained with.
        num_slices: slices per modality in a slab, odd.
        slice_step: distance of neighbours in a slab, in slices.
        planes: any of axial, coronal, sagittal (of a RAS volume).
        overlap: share of neighbouring windows that overlaps.
        sw_batch_size: windows per forward pass.
        flip: also predict the mirrored slices (rows, columns) and average; twice to four times the time.
        empty_logit: logit of slices without signal.
    """

    def __init__(
        self,
        roi_size: Sequence[int] = (96, 96),
        num_slices: int = 3,
        slice_step: int = 1,
        planes: Sequence[str] = ("axial",),
        overlap: float = 0.5,
        sw_batch_size: int = 16,
        flip: bool = False,
        empty_logit: float = -10.0,
    ) -> None:
        super().__init__()
        check_slab(num_slices, planes, slice_step)
        self.roi_size, self.planes = tuple(roi_size), tuple(planes)
        self.num_slices, self.slice_step = num_slices, slice_step
        self.overlap, self.sw_batch_size, self.flip, self.empty_logit = overlap, sw_batch_size, flip, empty_logit

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, progress: Callable[[int], Any] | None = None
    ) -> Tensor:
        """Predict.

        Args:
            inputs: ``(1, M, R, A, S)``, one RAS volume.
            network: maps ``(N, M * num_slices, rows, columns)`` to logits ``(N, 1, rows, columns)``.
            args: more arguments of the network.
            progress: called with the number of slices done after each batch.

        Returns:
            Logits ``(1, 1, R, A, S)``.

        Raises:
            ValueError: for more than one volume at a time.
        """
        if inputs.ndim != 5 or inputs.shape[0] != 1:
            raise ValueError(f"expected one volume (1, M, R, A, S), got {tuple(inputs.shape)}")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        probability = sum(self._plane(volume[0], plane, network, args, progress) for plane in self.planes)
        logits = torch.logit(torch.as_tensor(probability / len(self.planes)), eps=1e-6)
        return logits.unsqueeze(0)

    def _plane(
        self,
        volume: Tensor,
        plane: str,
        network: Callable[..., Tensor],
        args: tuple[Any, ...],
        progress: Callable[[int], Any] | None,
    ) -> Tensor:
        """Probabilities ``(1, R, A, S)`` of ``(M, R, A, S)`` from slices of one plane."""
        slices = to_plane(volume, plane)
        empty = torch.sigmoid(torch.tensor(self.empty_logit)).item()
        out = torch.full((1, *slices.shape[1:]), empty, dtype=torch.float32, device=volume.device)
        signal = (slices != 0).flatten(2).any(dim=2).any(dim=0).nonzero().flatten().cpu()
        for start in range(0, len(signal), self.sw_batch_size):  # split() of nothing would give one empty batch
            centers = signal[start : start + self.sw_batch_size]
            slabs = gather_slabs(slices, centers, self.num_slices, self.slice_step)
            out[0, centers] = self._windows(slabs, network, args)[:, 0]
            if progress is not None:
                progress(len(centers))
        return from_plane(out, plane)

    def _windows(self, slabs: Tensor, network: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
        """Probabilities ``(N, 1, rows, columns)`` of slabs ``(N, C, rows, columns)``."""
        mirrors: list[tuple[int, ...]] = [(), (2,), (3,), (2, 3)] if self.flip else [()]
        total = torch.zeros(())
        for axes in mirrors:
            logits: Tensor = sliding_window_inference(
                slabs.flip(axes),
                self.roi_size,
                self.sw_batch_size,
                lambda windows: network(windows, *args),
                overlap=self.overlap,
                mode="gaussian",
            )
            total = total + logits.float().sigmoid().flip(axes)
        return total / len(mirrors)


class AutocastInferer(Inferer):
    """Another inferer in bfloat16 (autocast) on any device; what comes out is float32 again.

    MONAI's own ``amp`` is float16 with a loss scaler, and CUDA only.

    Args:
        inferer: does the work.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Predict as the inferer does; a list of outputs stays a list."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            out = self.inferer(inputs, network, *args, **kwargs)
        return [o.float() for o in out] if isinstance(out, (list, tuple)) else out.float()


def check_channels(network: object, inferer: Inferer, channels: Sequence[int]) -> None:
    """Whether the network takes the slabs that an inferer cuts.

    Args:
        network: of any kind; only a `DifferSeg` says what it takes.
        inferer: of any kind; only a `SliceWindowInferer` cuts slabs.
        channels: per modality, of the volume.

    Raises:
        ConfigError: if it does not.
    """
    takes = getattr(network, "in_channels", None)
    if not isinstance(inferer, SliceWindowInferer) or not isinstance(takes, (list, tuple)):
        return
    needed = [count * inferer.num_slices for count in channels]
    if list(takes) != needed:
        raise ConfigError(
            "the network takes other channels than the slabs have",
            entry="in_channels",
            expected=f"{needed}: {inferer.num_slices} slices of each modality's {list(channels)} channels",
            found=list(takes),
            remedy="Change in_channels or num_slices; weights fit one number of channels only.",
        )
