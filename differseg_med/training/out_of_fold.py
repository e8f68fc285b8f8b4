"""Probabilities of cases that a network was not trained on, with every modality and with each withheld in turn."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from differseg_med.atomic import replacing
from differseg_med.geometry import Grid
from differseg_med.keys import CHANNELS, IMAGE, LABEL
from differseg_med.transforms.grids import original_grid, restore_grid

logger = logging.getLogger(__name__)

ALL = "all"
Content = dict[str, Any]
"""Of a case: ``probabilities`` float16 ``(planes, subsets, R, A, S)`` on the network's grid (one plane where the
inferer has averaged them), ``label`` uint8 ``(1, R, A, S)``, ``affine``, and of the reference's file
``original_affine`` and ``original_shape``; ``made_of``, a hash of all that decides it."""


def subset_names(modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The modalities that are given, by the name of the subset: ``all``, and ``without ct`` for each of several."""
    names = {ALL: tuple(modalities)}
    if len(modalities) > 1:
        names |= {f"without {name}": tuple(m for m in modalities if m != name) for name in modalities}
    return names


@torch.no_grad()
def predict_case(
    sample: Mapping[str, Any],
    network: Callable[..., Tensor],
    inferer: Inferer,
    modalities: Sequence[str],
    device: torch.device | str,
    *,
    amp: bool = False,
) -> Content:
    """Predict a preprocessed case with each subset of `subset_names`.

    A modality is withheld by emptying its channels on the network's grid. A case that does not have it gets what it
    gets with all; where nothing would be left, the probabilities are NaN.

    Args:
        sample: with ``image`` ``(C, R, A, S)``, ``label`` and the modality of each channel.
        network: in evaluation, on the device.
        inferer: volume to logits.
        modalities: of the bundle, in order.
        device: of the network.
        amp: bfloat16 autocast.
    """
    image: MetaTensor = sample[IMAGE]
    volume, channels = image.as_tensor(), list(sample[CHANNELS])
    present = [name for name in modalities if bool(volume[[c == name for c in channels]].any())]
    found: dict[tuple[str, ...], Tensor] = {}
    for given in subset_names(modalities).values():
        left = tuple(name for name in present if name in given)
        if left not in found:
            kept = torch.tensor([channel in left for channel in channels])
            batch = (volume * kept[:, None, None, None])[None].to(device)
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=amp):
                logits = inferer(batch, network)
            probability = logits[0, 0].float().sigmoid().cpu().half()
            found[left] = probability if left else torch.full_like(probability, float("nan"))
    subsets = [found[tuple(n for n in present if n in given)] for given in subset_names(modalities).values()]
    grid = original_grid(image)
    return {
        "probabilities": torch.stack(subsets)[None],
        "label": sample[LABEL].as_tensor().to(torch.uint8),
        "affine": torch.as_tensor(np.asarray(image.affine, dtype=np.float64)),
        "original_affine": torch.as_tensor(np.array(grid.affine)),
        "original_shape": list(grid.shape),
    }


def save_prediction(content: Content, path: Path) -> None:
    """Keep it, in one step."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # of a path torch writes the name into the file
        torch.save(content, file)


def read_prediction(path: Path, *, mmap: bool = False) -> Content | None:
    """What `save_prediction` kept; None if it is not there or damaged. ``mmap`` reads what is used only."""
    if not path.is_file():
        return None
    try:
        content: Content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        content["probabilities"], content["label"]
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        logger.warning("%s is damaged (%s): made again", path.name, type(error).__name__)
        return None
    return content


def mean_probability(content: Content, subset: int = 0) -> MetaTensor:
    """Probability ``(1, R, A, S)`` of a subset on the network's grid, the mean of the planes."""
    mean = content["probabilities"][:, subset].float().mean(dim=0, keepdim=True)
    return MetaTensor(mean, affine=content["affine"])


def restored(content: Content, subset: int, grid: Grid) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probability ``(H, W, D)`` of a subset on another grid of the same space."""
    return np.asarray(restore_grid(mean_probability(content, subset), grid)[0].numpy(), dtype=np.float32)
