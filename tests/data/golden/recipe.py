"""Parameters of the complete model from their keys: NumPy's RandomState, whose numbers no version changes.

Taken from the recipe that came with the golden numbers: standard normal numbers seeded by the CRC-32 of `salt:key`, in
float64 and C order, then scaled by kind, then float32.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

WEAK = (".prompt_learn.", "_freq_adapter.", ".freq_gate.")
"""Parts whose weights are small in the complete model."""


def value(key: str, shape: tuple[int, ...], kind: str, rule: str = "full", salt: str = "") -> torch.Tensor:
    """One parameter or buffer of kind var, mean, norm_w, bias, pos, kernel, w, wT (of a transposed convolution)."""
    assert rule == "full"
    seed = zlib.crc32(f"{salt}:{key}".encode()) & 0xFFFFFFFF
    numbers = np.random.RandomState(seed).standard_normal(int(np.prod(shape))).reshape(shape)
    gain = 0.4 if any(part in key for part in WEAK) else 0.7 if key.startswith("encoder.") else 1.0
    scaled = {
        "var": lambda: np.exp(0.25 * numbers),
        "mean": lambda: 0.1 * numbers,
        "norm_w": lambda: 1 + 0.2 * numbers,
        "bias": lambda: 0.1 * numbers,
        "pos": lambda: 0.3 * numbers,
        "kernel": lambda: 0.35 * numbers,
        "w": lambda: numbers * (gain / np.sqrt(int(np.prod(shape[1:])))),
        "wT": lambda: numbers * (gain / np.sqrt(shape[0] * 4)),
    }[kind]()
    return torch.from_numpy(np.ascontiguousarray(scaled.astype(np.float32)))
