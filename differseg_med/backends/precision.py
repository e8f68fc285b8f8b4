"""Whether a prediction is computed in bfloat16: ``amp`` of a bundle, the processor, and what the user says."""

from __future__ import annotations

import os
from typing import Literal

import torch

from differseg_med.errors import ConfigError

AUTO: Literal["auto"] = "auto"
"""bfloat16 where the device multiplies in it; for bundles whose card says what that does to their scores."""

Amp = bool | Literal["auto"]

VARIABLE = "DIFFERSEG_PRECISION"
"""Environment variable with the precision that ``auto`` stands for, so that all machines compute in the same one."""

NAMES = {False: "float32", True: "bfloat16"}


def in_bfloat16(amp: Amp, device: torch.device | str) -> bool:
    """Whether ``amp`` means bfloat16 on this device.

    Raises:
        ConfigError: for a precision in the environment that there is not.
    """
    if amp != AUTO:
        return bool(amp)
    named = os.environ.get(VARIABLE) or AUTO
    if named not in (AUTO, *NAMES.values()):
        expected = ", ".join((AUTO, *NAMES.values()))
        raise ConfigError("there is no such precision", entry=VARIABLE, expected=f"one of {expected}", found=named)
    return multiplies_bfloat16(device) if named == AUTO else named == NAMES[True]


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for it; where it is emulated it is slower than float32.

    Processors are those whose instructions PyTorch and OpenVINO use: AVX-512 BF16 and AMX. Others say no.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # newer versions
        told = torch.cpu.get_capabilities()
        return bool(told.get("avx512_bf16") or told.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
