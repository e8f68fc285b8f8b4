"""A network made ready for prediction: fused, on the quickest engine there is, without what absent streams cost."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from differseg_med.backends.cache import programs_folder
from differseg_med.backends.engines import ENGINES, Program, Shape, installed, openvino_is_stored
from differseg_med.errors import ConfigError, Finding
from differseg_med.networks import DifferSeg
from differseg_med.networks.fusion import present_modalities
from differseg_med.networks.inference import fuse_for_inference, pack_for_cpu
from differseg_med.networks.restriction import Pattern, restrict, select
from differseg_med.runs.describe import digest, weights_hash
from differseg_med.runs.stamps import code_hash

logger = logging.getLogger(__name__)

AUTO, TORCH = "auto", "torch"
BACKENDS = (AUTO, TORCH, *ENGINES)
VARIABLE = "DIFFERSEG_BACKEND"
"""Environment variable with the backend that ``auto`` stands for."""

AT_ONCE, MOST_AT_ONCE = 4, 16
"""Windows of a volume that an engine's program for one size takes at a time, for each thread and in all."""

EXPORT_PAYS = 3
"""Cases of a run from which on ``auto`` exports a network to OpenVINO: that takes 7 to 12 CPU seconds per weights."""

PAYS = 128
"""Windows of a volume that lack the same modalities, from which on an engine's own program for them pays."""

COMPARED_WINDOWS = 2
"""Windows that each program of an engine computes together with the network before it is trusted."""

LARGEST = {False: 1e-4, True: 5e-2}
"""Largest difference of two outputs that counts as rounding, as a share of the largest output: float32, bfloat16."""


def named_backend(backend: str) -> str:
    """The backend that a setting names: ``auto`` is what the environment variable names, or itself.

    Raises:
        ConfigError: if there is no such backend.
    """
    named = (os.environ.get(VARIABLE) or AUTO) if backend == AUTO else backend
    if named not in BACKENDS:
        raise ConfigError(
            "there is no such backend", entry="backend", expected=f"one of {', '.join(BACKENDS)}", found=named
        )
    return named


class Prepared:
    """Computes what a network computes, ``(B, C, H, W)`` to logits ``(B, 1, H, W)``, in evaluation and quicker.

    Batch norms are folded. Samples without a modality are computed by the network of the others, see `restrict`. An
    engine's program is held against the network itself on its first windows; what cannot be built, or differs, is
    replaced by PyTorch, and said in `findings`. Networks that are no `DifferSeg` are called as they are.

    Args:
        network: on its device; later changes of its weights are not seen.
        backend: one of `BACKENDS`. ``auto`` is OpenVINO on a CPU where it is installed and pays, else PyTorch.
        bfloat16: what the engine computes in; PyTorch follows the caller's autocast.
        cases: of the whole run. A few pay for no export, so that ``auto`` takes OpenVINO only if that was done before.
        window: rows and columns that nearly all windows will have; those of other sizes get programs for any size.
    """

    def __init__(
        self,
        network: nn.Module,
        backend: str = AUTO,
        *,
        bfloat16: bool = False,
        cases: int = EXPORT_PAYS,
        window: Sequence[int] | None = None,
    ) -> None:
        parameter = next(network.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.network, self.bfloat16 = network, bfloat16
        self.backend = named_backend(backend)
        self.findings: list[Finding] = []
        self._own: set[Pattern] = set()  # patterns of this case that have a program of their own
        self._parts: dict[Pattern, DifferSeg] = {}
        self._programs: dict[tuple[Pattern, Shape | None], Program] = {}
        counts = (min(AT_ONCE * torch.get_num_threads(), MOST_AT_ONCE), 1)  # of volumes, and of pictures
        self._shapes = [(count, window[0], window[1]) for count in counts] if window else []
        self._shape: Shape | None = None  # of this case's windows
        if isinstance(network, DifferSeg):
            self._whole: Pattern = (True,) * network.num_modalities
            if self.backend == AUTO:
                self.backend = "openvino" if self._openvino_pays(cases) else TORCH
            elif self.backend != TORCH and not self._usable():
                self.backend = TORCH
        elif self.backend == AUTO:
            self.backend = TORCH

    @property
    def in_channels(self) -> list[int] | None:
        """Channels per modality, of a `DifferSeg`; others do not say."""
        return list(self.network.in_channels) if isinstance(self.network, DifferSeg) else None

    def expect(self, windows: Mapping[Pattern, int]) -> None:
        """Say how many of the next windows have which modalities: few of a kind pay for no program of their own.

        What a case gives must not depend on the cases before it, so an inferer says it for each volume.
        """
        self._own = {p for p, count in windows.items() if any(p) and (self.backend == TORCH or count >= PAYS)}
        total = sum(windows.values())
        self._shape = next((shape for shape in self._shapes if shape[0] <= total), None)

    def __call__(self, x: Tensor, *args: Any) -> Tensor:
        """Compute."""
        images = x.as_tensor() if isinstance(x, MetaTensor) else x
        if not isinstance(self.network, DifferSeg) or args or images.ndim != 4:
            out: Tensor = self.network(images, *args)
            return out
        present = [tuple(row) for row in present_modalities(images, self.network.in_channels).tolist()]
        present = [pattern if pattern in self._own else self._whole for pattern in present]
        if len(set(present)) == 1:
            return self._compute(images, present[0])
        outputs: Tensor | None = None
        for pattern in dict.fromkeys(present):
            index = torch.tensor([i for i, other in enumerate(present) if other == pattern], device=images.device)
            found = self._compute(images[index], pattern)
            outputs = found.new_empty((len(images), *found.shape[1:])) if outputs is None else outputs
            outputs[index] = found
        assert outputs is not None
        return outputs

    def _compute(self, x: Tensor, pattern: Pattern) -> Tensor:
        assert isinstance(self.network, DifferSeg)
        taken = x if pattern == self._whole else select(x, self.network.in_channels, pattern)
        if self.backend != TORCH:
            try:
                return self._by_engine(x, taken, pattern)
            except Exception as error:  # whatever an engine raises, PyTorch can do it
                self._fall_back(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        out: Tensor = self._part(pattern)(taken.contiguous(memory_format=torch.channels_last))
        return out

    def _by_engine(self, x: Tensor, taken: Tensor, pattern: Pattern) -> Tensor:
        """By the engine's program; the first windows are compared.

        Raises:
            ArithmeticError: if the program does not give what the network gives.
        """
        shape = self._shape if self._shape and tuple(x.shape[2:]) == self._shape[1:] else None
        first = (pattern, shape) not in self._programs
        if first:
            self._programs[pattern, shape] = self._program(pattern, shape)
        found = self._programs[pattern, shape](taken)
        if first:
            with torch.autocast(self.device.type, enabled=False):
                expected: Tensor = self.network(x[:COMPARED_WINDOWS])
            difference = float((found[:COMPARED_WINDOWS] - expected).abs().max())
            largest = max(1.0, float(expected.abs().max()))
            if not difference <= LARGEST[self.bfloat16] * largest:  # NaN is no rounding either
                raise ArithmeticError(f"outputs up to {largest:.3g} differ by {difference:.3g}")
        return found

    def _program(self, pattern: Pattern, shape: Shape | None) -> Program:
        channels = sum(c for c, there in zip(self.in_channels or (), pattern) if there)
        logger.info("%s: making the network ready", self.backend)
        return ENGINES[self.backend](
            partial(self._part, pattern), channels, self._key(pattern), programs_folder(), self.bfloat16, shape
        )

    def _key(self, pattern: Pattern) -> str:
        """Says which network computes a pattern, and by which code it is made."""
        return digest(weights_hash(self.network), repr(self.network), code_hash(), pattern)

    def _openvino_pays(self, cases: int) -> bool:
        """Whether it is here and saves more than its export costs."""
        if self.device.type != "cpu" or not installed("openvino"):
            return False
        if cases >= EXPORT_PAYS:
            return True
        try:
            key, folder = self._key(self._whole), programs_folder()
            shapes: list[Shape | None] = [*self._shapes] or [None]
            return any(openvino_is_stored(key, folder, self.bfloat16, shape) for shape in shapes)
        except Exception as error:  # whatever is wrong with it, PyTorch can do it
            logger.debug("openvino: %s", error)
            return False

    def _part(self, pattern: Pattern) -> DifferSeg:
        """The fused network of these modalities, in PyTorch."""
        assert isinstance(self.network, DifferSeg)
        if self._whole not in self._parts:
            packs = self.backend == TORCH and self.device.type == "cpu" and not self.bfloat16
            packs = packs and torch.backends.mkldnn.is_available()
            self._parts[self._whole] = (pack_for_cpu if packs else fuse_for_inference)(self.network)
        if pattern not in self._parts:
            self._parts[pattern] = restrict(self._parts[self._whole], pattern)
        return self._parts[pattern]

    def _usable(self) -> bool:
        """Whether the engine is installed and computes on this device; else it is said."""
        if self.backend in ("openvino", "onnxruntime") and self.device.type != "cpu":
            self._say(f"backend {self.backend} computes on a CPU only, the network is on {self.device.type}")
            return False
        if self.backend in ("openvino", "onnxruntime") and not installed(self.backend):
            self._say(f"backend {self.backend} is not installed", f'pip install "differseg-med[{self.backend}]"')
            return False
        return True

    def _fall_back(self, why: str) -> None:
        self._say(f"{self.backend} could not be used ({why})")
        self.backend = TORCH
        self._programs.clear()
        self._parts.clear()

    def _say(self, what: str, remedy: str = "") -> None:
        self.findings.append(Finding("warning", f"{what}: computed by PyTorch", remedy))
        logger.warning("%s", self.findings[-1])
