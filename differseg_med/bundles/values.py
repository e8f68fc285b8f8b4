"""Values for MONAI's configurations that stay values: it reads strings with ``$``, ``@``, ``%`` and ``#`` as code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from differseg_med.errors import CaseError

CODE = frozenset("$@%#")
"""Expression, reference, macro, and the old separator of ids: what a string must hold for MONAI to interpret it."""


def as_value(value: Any) -> Any:
    """The value in a form that MONAI's parser gives back as it is, whatever it is called.

    A path such as ``study #2/$today.csv`` becomes a Python literal in an expression: the parser evaluates expressions
    once, and finds neither a reference nor a separator in this one.

    Args:
        value: a path, text, number, None, or a list or dictionary of them.

    Raises:
        CaseError: for a dictionary that names a component to build, which is code.
    """
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        literal = ascii(value).replace("@", r"\x40").replace("#", r"\x23")
        return f"${literal}" if CODE.intersection(value) else value
    if isinstance(value, dict):
        if any(str(key).startswith("_") for key in value):
            raise CaseError(
                "a setting is a value, not a component",
                found=", ".join(sorted(str(key) for key in value)),
                remedy="Write components and expressions into a file and give it as --preset.",
            )
        return {key: as_value(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_value(entry) for entry in value]
    return value


def as_device(name: str) -> str:
    """The expression for a device, after a check that it is one.

    Raises:
        CaseError: if torch knows no such device.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise CaseError("there is no such device", expected="cpu, cuda, cuda:1, mps", found=repr(name[:40])) from error
    return f"$torch.device('{device}')"
