"""Choosing regions or segments by name or number."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from differseg_med.errors import CaseError, private

Named = tuple[int | None, str]

NUMBER_MARK = "#"
"""Before a number that must not be taken for a name."""

LEAST = ">="
"""Begins the end of a selector that says from which value on a voxel is foreground."""


def choose(selector: str, named: Sequence[Named], what: str, file: Path) -> list[Named]:
    """What a selector means: one name in any case, one number (``2`` or ``#2``), or several of them with commas.

    Args:
        selector: empty if there is only one to choose.
        named: number and name of each.
        what: what to call one in messages.
        file: the file for messages.

    Raises:
        CaseError: if there is no such name or more than one; the names are listed.
    """
    names = ", ".join(f"{name or '(no name)'} ({number})" for number, name in named) or "none"
    listed = private(names, f"{len(named)} names, which --verbose-paths lists")
    if not selector:
        if len(named) == 1:
            return list(named)
        first = named[0][1] if named else "NAME"
        raise CaseError(
            f"there are {len(named)} {what}s here",
            file=file,
            found=listed,
            remedy=f"Name one after the path: {private(f'{file.name}::{first}', 'PATH::NAME')}.",
        )
    whole = _matching(selector, named)
    pieces = [selector] if whole else [piece.strip() for piece in selector.split(",")]
    chosen: list[Named] = []
    for piece in pieces:
        found = _matching(piece, named)
        if len(found) != 1:
            called = private(repr(piece), "of this name")
            problem = f"there is no {what} {called}" if not found else f"{len(found)} {what}s are called {called}"
            remedy = "Check the spelling." if not found else "Give its number instead."
            raise CaseError(problem, file=file, found=listed, remedy=remedy)
        chosen += found
    return list(dict.fromkeys(chosen))


def split_least(selector: str) -> tuple[str, float | None]:
    """What comes before ``>=NUMBER`` at the end of a selector, and the number; None if there is none."""
    name, sign, number = selector.rpartition(LEAST)
    try:
        return (name.strip(), float(number)) if sign else (selector, None)
    except ValueError:
        return selector, None


def _matching(piece: str, named: Sequence[Named]) -> list[Named]:
    exact = [item for item in named if item[1] == piece]
    folded = [item for item in named if _folded(item[1]) == _folded(piece)]
    number = piece.strip().removeprefix(NUMBER_MARK)
    return exact or folded or [item for item in named if item[0] is not None and str(item[0]) == number]


def _folded(name: str) -> str:
    """The name in any case, whether an umlaut in it is one character or two."""
    return unicodedata.normalize("NFKC", name).strip().casefold()
