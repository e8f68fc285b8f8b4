"""What an object of a pipeline is set to, as plain values that two runs can be compared by."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

LONGEST = 12
"""Sequences of plain values up to this length are told whole, longer ones by their hash."""

DEEPEST = 10


def described(**parts: Any) -> dict[str, str]:
    """The settings of objects, flat: ``{"inferer.roi_size": "[96, 96]", ...}``.

    Told are the attributes of every object, of other packages what their constructors take, functions by name,
    networks by their class and the hash of their weights, arrays by their hash. Devices, paths and states of random
    numbers are left out: a run may go on elsewhere.
    """
    return dict(sorted(_flat(parts, "", 0)))


def digest(*values: Any) -> str:
    """A hash of tensors, arrays, numbers and texts, and of what containers hold of them."""
    found = hashlib.sha256()
    for value in values:
        _feed(found, value)
    return found.hexdigest()[:16]


def weights_hash(network: nn.Module) -> str:
    """A hash of a network's weights and buffers."""
    return digest(network.state_dict())


def _flat(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        yield from _items(value, name, depth)
    elif (text := _plain(value)) is not None:
        yield name, text
    elif isinstance(value, nn.Module):
        yield f"{name}.class", type(value).__qualname__
        yield f"{name}.layers", digest(repr(value))
        plain = {key: text for key, item in vars(value).items() if (text := _plain(item)) is not None}
        yield from ((f"{name}.{key}", plain[key]) for key in plain if not key.startswith("_") and key != "training")
        yield f"{name}.weights", weights_hash(value)
    elif not isinstance(value, torch.device | Path | np.random.RandomState | np.random.Generator | torch.Generator):
        yield f"{name}.class", type(value).__qualname__
        if depth < DEEPEST:
            for key, item in _settings(value).items():
                yield from _flat(item, f"{name}.{key}", depth + 1)


def _settings(value: Any) -> dict[str, Any]:
    """The attributes of an object that say what it is set to.

    Of other packages those that its constructor takes, and objects: MONAI's random transforms keep what they drew last.
    """
    held = {key: item for key, item in getattr(value, "__dict__", {}).items() if key not in ("R", "_do_transform")}
    if type(value).__module__.startswith("differseg_med"):
        return held
    taken = inspect.signature(type(value).__init__).parameters
    public = {key: item for key, item in held.items() if not key.startswith("_")}
    return {key: item for key, item in public.items() if key in taken or _plain(item) is None}


def _items(value: Sequence[Any] | Set[Any], name: str, depth: int) -> Iterator[tuple[str, str]]:
    items = sorted(value, key=repr) if isinstance(value, Set) else list(value)
    plain = [_plain(item) for item in items]
    if all(text is not None for text in plain):
        yield name, f"[{', '.join(map(str, plain))}]" if len(plain) <= LONGEST else digest(*map(str, plain))
        return
    for number, item in enumerate(items):
        kind = type(item).__name__
        alike = sum(type(other).__name__ == kind for other in items)
        part = kind if alike == 1 else f"{kind}[{number}]"
        for key, text in _flat(item, f"{name}.{part}", depth + 1):
            if key != f"{name}.{part}.class" or text != kind:
                yield key, text
        yield f"{name}.{part}", "there"


def _plain(value: Any) -> str | None:
    """A value that says itself; None for others."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic | torch.dtype):
        return str(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return digest(value)
    if isinstance(value, partial):
        return f"{_plain(value.func)}{value.args}{value.keywords}"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [_plain(item) for item in value]
        return None if any(part is None for part in parts) else f"[{', '.join(map(str, parts))}]"
    return None


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            found.update(f"{key}:".encode())
            _feed(found, item)
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(_array(value))
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.data if array.size else b"")
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(found, item)
    else:
        found.update(repr(value).encode("utf-8", "surrogateescape") + b";")


def _array(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    held = value.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()
