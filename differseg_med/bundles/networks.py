"""Networks with weights, as configurations name them: to predict with one or several, to start a training with."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from differseg_med.bundles.reading import read_config
from differseg_med.errors import CaseError, ConfigError
from differseg_med.networks.checkpoints import load_weights, read_state_dict
from differseg_med.networks.depthwise import quicken_depthwise
from differseg_med.networks.ensemble import Ensemble
from differseg_med.networks.transfer import STEM, transferred
from differseg_med.reports.provenance import CHECKPOINT
from differseg_med.runs.manifest import read_steps

logger = logging.getLogger(__name__)

WEIGHTS = ("model.pt", "model.safetensors")
"""Files of weights in ``models/`` of a bundle."""


def with_weights(
    network_def: nn.Module, path: str | Path | Sequence[str | Path], device: torch.device | str = "cpu"
) -> nn.Module:
    """Load a checkpoint strictly and move the network to its device, in evaluation mode.

    Args:
        network_def: the network.
        path: its weights; of several files each is a network, and the mean of their probabilities counts.
        device: where to.

    Raises:
        CaseError: says what is wrong with the checkpoint.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise CaseError("there is no checkpoint", expected="a file of weights, or a list of them")
    members = [network_def, *(copy.deepcopy(network_def) for _ in paths[1:])]
    try:
        for member, file in zip(members, paths):
            load_weights(member, file)
    except (FileNotFoundError, ValueError) as error:
        raise CaseError(str(error)) from error
    network = members[0] if len(members) == 1 else Ensemble(members)
    setattr(network, CHECKPOINT, str(paths[0]))  # reports say which weights made the masks
    return on_device(network, device).eval()


def training_network(
    network_def: nn.Module,
    device: torch.device | str = "cpu",
    initial_weights: str | Path | None = None,
    modalities: Mapping[str, Any] | Sequence[str] = (),
) -> nn.Module:
    """The network to train: on its device, and from ``initial_weights`` if they are given (fine-tuning).

    Args:
        network_def: the network.
        device: where to.
        initial_weights: a file of weights, or a bundle. Of other modalities what fits by name and shape is taken, and
            the rest is told.
        modalities: of the network, in order.

    Raises:
        CaseError: says what is wrong with the weights.
    """
    if initial_weights:
        _start_from(network_def, Path(initial_weights), list(modalities))
    return on_device(quicken_depthwise(network_def), device).train()


def on_device(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on its device, in the memory layout that convolutions are quickest with."""
    try:
        moved = network.to(device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise ConfigError(
            "there is no such device here", entry="device", expected=f"one of {', '.join(['cpu', *gpus])}", found=device
        ) from error
    return moved.to(memory_format=torch.channels_last)


def _start_from(network: nn.Module, path: Path, own: list[str]) -> None:
    file = weights_file(path) if path.is_dir() else path
    try:
        given = read_state_dict(file)
    except (FileNotFoundError, ValueError) as error:
        raise CaseError(str(error)) from error
    theirs = modalities_of_weights(file) or own
    count = len(getattr(network, "stems", own))
    own = own if len(own) == count else [f"modality {number}" for number in range(count)]
    found = transferred(network, given, own, theirs)
    if not found.taken or all(name in found.new for name in found.state if name.startswith("encoder.")):
        raise CaseError(
            "nothing of these weights fits the network",
            file=file,
            found=f"{len(given)} tensors, the first {next(iter(given), 'none')}",
            remedy="Give weights of a network with the same encoder.",
        )
    network.load_state_dict(found.state)
    logger.info("initial_weights: %d of %d tensors are from %s", found.taken, len(found.state), file.name)
    if found.new or found.unused or list(theirs) != own:
        known = [name for name in own if name in theirs]
        others = [name for name in theirs if name not in own]
        logger.info(
            "initial_weights: known modalities %s, new %s, not used %s; new tensors: %s; not used: %s",
            ", ".join(known) or "none",
            ", ".join(name for name in own if name not in theirs) or "none",
            ", ".join(others) or "none",
            _parts(found.new),
            _parts(found.unused),
        )


def _parts(names: Sequence[str]) -> str:
    """Names of tensors by the parts of the network that they are of, with their number."""
    counts = Counter(name.split(".")[0] if not STEM.fullmatch(name) else "stems" for name in names)
    return ", ".join(f"{part} {count}" for part, count in counts.items()) or "none"


def weights_file(bundle: Path) -> Path:
    """The weights of a bundle's folder; of an ensemble the first.

    Raises:
        CaseError: if there are none.
    """
    found = [bundle / "models" / name for name in WEIGHTS]
    found += sorted([*(bundle / "models").glob("fold*.pt"), *(bundle / "models").glob("fold*.safetensors")])
    file = next((path for path in found if path.is_file()), None)
    if file is None:
        raise CaseError("the bundle has no weights", file=bundle, expected=f"models/{WEIGHTS[0]}")
    return file


def modalities_of_weights(file: Path) -> list[str]:
    """The modalities that weights were trained with, as their bundle or the manifest of their training says."""
    return next(filter(None, _told(file.absolute())), [])


def _told(file: Path) -> Iterator[list[str]]:
    for folder in (file.parent, file.parent.parent):
        config = folder / "configs" / "inference.yaml"
        if config.is_file():
            content = read_config(config)
            yield list(content.get("modalities") or ()) if isinstance(content, dict) else []
        for step in read_steps(folder).values():
            yield list(step.configuration.get("modalities") or ())
