"""Files of a training: whole or not at all, and the same to the last byte for the same content."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from differseg_med.atomic import replacing


def save(content: Any, path: Path) -> None:
    """Save what `torch.load` reads."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # of a path torch writes the name into the file
        torch.save(_plain(content), file)


def _plain(content: Any) -> Any:
    """The same without strings and containers that are one object twice, which pickle writes once.

    A resumed training has them from a file, where equal ones need not be one.
    """
    if type(content) is dict:
        return {_plain(key): _plain(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map(_plain, content))
    return sys.intern(content) if type(content) is str else content
