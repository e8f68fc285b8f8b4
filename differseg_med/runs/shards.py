"""Shards of a run: every n-th case by a process of its own, each in a folder of its own, to be collected at the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from differseg_med.errors import CaseError
from differseg_med.runs.names import SHARDS

_TEXT, _FOLDER = re.compile(r"(\d{1,6})/(\d{1,6})"), re.compile(r"(\d{1,6})_of_(\d{1,6})")
Item = TypeVar("Item")


@dataclass(frozen=True, order=True)
class Shard:
    """One of several shards: number ``1`` to ``of``."""

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``2/4``.

        Raises:
            CaseError: if it is none.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise CaseError(
                f"--shard {text} is not understood",
                expected="K/N, the number of a shard (from 1) and how many there are",
                remedy="Write --shard 2/4 for the second of four.",
            )
        return cls(int(match[2]), int(match[1]))

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Its items: every `of`-th."""
        return list(items[self.number - 1 :: self.of])

    def folder(self, out: str | Path) -> Path:
        """Where it writes, below the folder of the whole run."""
        return Path(out) / SHARDS / f"{self.number}_of_{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def shards_in(out: str | Path) -> dict[Shard, Path]:
    """The shards below the folder of a run, in order."""
    found = {}
    for path in Path(out, SHARDS).glob("*_of_*"):
        if (match := _FOLDER.fullmatch(path.name)) and path.is_dir():
            found[Shard(int(match[2]), int(match[1]))] = path
    return dict(sorted(found.items()))


def whole_run(folder: str | Path) -> Path | None:
    """The folder of the whole run if ``folder`` is that of a shard."""
    absolute = Path(folder).absolute()
    return absolute.parents[1] if absolute.parent.name == SHARDS and _FOLDER.fullmatch(absolute.name) else None
