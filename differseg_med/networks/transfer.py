"""Weights of a network for other modalities: what fits by the modality's name and by shape is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BY_MODALITY = {
    r"fuse\.\d+\.project\.(weight|bias)": 0,
    r"fuse\.\d+\.weigh\.0\.0\.weight": 1,
    r"fuse\.\d+\.weigh\.1\.(weight|bias)": 0,
    r"fuse\.\d+\.merge\.0\.weight": 1,
}
"""Tensors of a fusion that are made of one part per modality, and along which axis the parts lie."""

STEM = re.compile(r"stems\.(\d+)\.(.*)")


@dataclass(frozen=True)
class Transferred:
    """What was taken.

    Args:
        state: the network's weights afterwards.
        taken: number of tensors of which all or a part was taken.
        new: tensors of the network that stay as they are, in the order of the network.
        unused: tensors of the file that have no place.
    """

    state: dict[str, Tensor]
    taken: int
    new: tuple[str, ...]
    unused: tuple[str, ...]


def transferred(
    network: nn.Module, given: Mapping[str, Tensor], own: Sequence[str], theirs: Sequence[str]
) -> Transferred:
    """Match weights to a network of other modalities; nothing is changed.

    Args:
        network: to start with them.
        given: weights of a network of the same kind.
        own: modalities of the network, in order.
        theirs: modalities of the weights, in order.
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    new, used = [], set[str]()
    for name, value in state.items():
        source = _source(name, own, theirs)
        axis = next((axis for pattern, axis in BY_MODALITY.items() if re.fullmatch(pattern, name)), None)
        if source not in given:
            new.append(name)
        elif axis is not None:
            parts = _by_modality(value, given[source], axis, own, theirs)
            used |= {source} if parts else set()
            new += [] if parts else [name]
        elif value.shape == given[source].shape:
            value.copy_(given[source])
            used.add(source)
        else:
            new.append(name)
    return Transferred(state, len(state) - len(new), tuple(new), tuple(name for name in given if name not in used))


def _source(name: str, own: Sequence[str], theirs: Sequence[str]) -> str:
    """The name in the file: a stem is its modality's, whatever its number; empty for a modality that is not there."""
    if (match := STEM.fullmatch(name)) is None:
        return name
    modality = own[int(match[1])]
    return f"stems.{list(theirs).index(modality)}.{match[2]}" if modality in theirs else ""


def _by_modality(target: Tensor, source: Tensor, axis: int, own: Sequence[str], theirs: Sequence[str]) -> bool:
    """Copy the parts of the modalities that both have; whether there was one."""
    if target.shape[axis] % len(own) or source.shape[axis] % len(theirs):
        return False
    parts, found = target.chunk(len(own), dim=axis), source.chunk(len(theirs), dim=axis)
    common = [name for name in own if name in theirs]
    if not common or parts[0].shape != found[0].shape:
        return False
    with torch.no_grad():
        for name in common:
            parts[list(own).index(name)].copy_(found[list(theirs).index(name)])
    return True
