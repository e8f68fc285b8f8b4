"""What a training costs on this machine: memory and seconds, measured with one forward and backward pass."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from differseg_med.errors import CaseError
from differseg_med.losses import dice_ce_loss
from differseg_med.networks import DifferSeg
from differseg_med.networks.depthwise import quicken_depthwise

GB = 1e9

PROGRAM_BYTES = int(0.8 * GB)
"""Python with torch and MONAI."""

_TRIED = 4
"""Samples in the batch that memory is measured with."""

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Cost:
    """Of a training.

    Args:
        step_seconds: of one step with ``batch_size`` samples.
        sample_bytes: memory that grows with the batch, per sample.
        fixed_bytes: weights, gradients, optimizer, average.
        weights: number of them in the network.
        batch_size: of the measured step.
        delay: how many times as long that step took while other programs used the processors too.
    """

    step_seconds: float
    sample_bytes: int
    fixed_bytes: int
    weights: int
    batch_size: int
    delay: float = 1.0

    def needed(self, batch_size: int, cases_bytes: int = 0, *, on_gpu: bool = False) -> int:
        """Bytes that a training with this batch needs; the cases are in the memory of the processor."""
        return self.sample_bytes * batch_size + self.fixed_bytes + (0 if on_gpu else cases_bytes + PROGRAM_BYTES)


def parse_time(text: str) -> float:
    """Seconds of ``2h``, ``90min``, ``1.5h`` or ``1d``.

    Raises:
        CaseError: for anything else.
    """
    return _quantity("--time", text, "(s|sec|m|min|h|d)", _SECONDS, "a number with s, min, h or d", "2h")


def told_time(seconds: float) -> str:
    """In words: ``40 s``, ``12 min``, ``2.0 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def parse_memory(text: str) -> int:
    """Bytes of ``8GB``, ``500MB`` or ``8GiB``.

    Raises:
        CaseError: for anything else.
    """
    return int(_quantity("--memory", text, "([kmgt]i?)b?", _UNITS, "a number with MB or GB", "8GB"))


def _quantity(option: str, text: str, unit: str, sizes: Mapping[str, float], expected: str, example: str) -> float:
    """A number above 0 with a unit, in the smallest unit; ``unit`` is a pattern whose group is a key of ``sizes``."""
    found = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{unit}\s*", text.lower())
    if found is None or float(found[1]) == 0:
        raise CaseError(f"{option} {text} is not understood", expected=expected, remedy=f"{option} {example}")
    return float(found[1]) * sizes[found[2]]


def free_memory(device: torch.device) -> int:
    """Bytes that programs can still get: of a GPU, or of this machine within the limit of its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text(encoding="ascii")) if info.is_file() else None
    free = int(found[1]) * 1024 if found else 8 * 10**9  # other systems do not tell it without another package
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        numbers = [Path(file).read_text(encoding="ascii").strip() for file in (limit, used) if Path(file).is_file()]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            free = min(free, max(int(numbers[0]) - int(numbers[1]), 0))
    return free


def allowed_memory(asked: int | None, free: int) -> int:
    """Bytes that the training may use: what was asked for, else nine tenths of what is free.

    Raises:
        CaseError: if more is asked for than is there.
    """
    if asked is not None and asked > free:
        raise CaseError(
            "there is less memory than was asked for",
            expected=f"{asked / GB:.1f} GB (--memory)",
            found=f"{free / GB:.1f} GB free",
            remedy=f"Close other programs, or plan with --memory {max(int(free / 1e8) / 10, 0.1):g}GB.",
        )
    return int(0.9 * free) if asked is None else asked


def measure_cost(
    in_channels: Sequence[int],
    roi_size: Sequence[int],
    batch_size: int,
    device: torch.device,
    **network: Any,
) -> Cost:
    """Measure a step of a training with random images.

    On a processor the time of a step is that of computing, if that is shorter than the time on the clock: a plan lasts
    longer than what else the machine is doing now.

    Args:
        in_channels: per modality, of a sample.
        roi_size: rows and columns of a sample.
        batch_size: of the step whose time is measured.
        device: where the training will run.
        network: more arguments of `DifferSeg`; weights need not be pretrained for this.
    """
    torch.manual_seed(0)
    net = quicken_depthwise(DifferSeg(in_channels, **network)).to(device).to(memory_format=torch.channels_last)
    loss, optimizer = dice_ce_loss(), torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    sample_bytes = _saved_bytes(net, loss, _samples(in_channels, roi_size, _TRIED, device)) // _TRIED
    weights = sum(parameter.numel() for parameter in net.parameters())
    batch = _samples(in_channels, roi_size, batch_size, device)
    clock, computing = list[float](), list[float]()
    for _ in range(3):
        start, begun = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss(net(batch[0]), batch[1]).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        clock.append(time.perf_counter() - start)
        computing.append(time.process_time() - begun if device.type == "cpu" else math.inf)
    seconds, delay = undisturbed(sorted(clock)[1], sorted(computing)[1])
    # Gradients of activations and workspaces of convolutions: as much again at most.
    return Cost(seconds, 2 * sample_bytes, weights * 4 * 5, weights, batch_size, delay)


def undisturbed(clock: float, computing: float) -> tuple[float, float]:
    """Seconds that a step takes on a machine that does nothing else, and how many times as long it took here.

    Args:
        clock: seconds on the clock.
        computing: seconds of all threads together; infinite where they do not tell (a GPU computes).
    """
    seconds = min(clock, computing)
    return seconds, clock / seconds


def _samples(
    in_channels: Sequence[int], roi_size: Sequence[int], count: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(count, sum(in_channels), *roi_size, device=device)
    return image, (image[:, :1] > 1).float()


def _saved_bytes(net: nn.Module, loss: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass: the same on every machine."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(net(batch[0]), batch[1]).backward()
    return sum(kept.values())
