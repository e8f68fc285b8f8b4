"""Which values of a mask file are foreground: whole numbers despite rounding, chosen ones, or from a least one on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from differseg_med.errors import CaseError
from differseg_med.io.dicom.cells import join_cell
from differseg_med.io.dicom.names import LEAST, split_least

_WHOLE = 1e-3
"""How far a value may be from a whole number to be that number: a scale factor of the file or an interpolation of the
nearest voxel leaves 1.0000153 where 1 was meant."""

UNSAID = 1e-5
"""Up to here a distance from a whole number is rounding of the numbers themselves, of which nothing need be said."""

USUAL = (1, 255)
"""What foreground is called where nothing else is said."""

_NAMED = 8
"""How many values a message lists one by one."""


def foreground(
    volume: torch.Tensor, selector: str, path: Path, *, predicted: bool = False
) -> tuple[torch.Tensor, list[str]]:
    """The foreground of a mask file, and notes.

    Args:
        volume: ``(1, H, W, D)``, as read.
        selector: empty for 0 and one other value, else ``1,2,3`` or ``>=0.5``.
        path: the file, for messages.
        predicted: whether it is a prediction: its one value must be a whole number (0.3 alone is a probability), and
            a note says so if it is neither 1 nor 255 (it may be the class of something else).

    Returns:
        The mask ``(1, H, W, D)`` of bool. Nothing chosen is an empty mask, with a note.

    Raises:
        CaseError: if the selector says no values, there are several values and none is chosen, or all that there is
            lies within rounding of 0.
    """
    cell = "--predictions FOLDER" if predicted else path.name
    volume = torch.as_tensor(volume)
    name, least = split_least(selector)
    if least is not None and not name:
        mask = volume >= least
        return mask, _if_empty(mask, volume.unique().tolist(), selector)
    rounded = volume.round()
    off = (volume - rounded).abs()
    noise = 0.0
    if float(off.max()) != 0:  # of most files it is, and large masks are looked through once less
        volume = torch.where(off <= _WHOLE, rounded, volume)
        noise = float(off[off <= _WHOLE].max()) if bool((off <= _WHOLE).any()) else 0.0
    notes = [f"values up to {noise:.1g} from whole numbers, taken as those"] if noise > UNSAID else []
    values = _values(volume)
    if not any(values) and float(off.max()) > 0:
        raise CaseError(
            "all values of the mask are 0 or nearly so",
            file=path,
            found=f"at most {float(off.max()):.2g}",
            remedy=f"If it has been scaled, say from which value on a voxel is foreground: {cell}::{LEAST}VALUE.",
        )
    if not selector:
        value = _only_value(values, path, cell, predicted=predicted)
        if predicted and value not in (0, *USUAL):
            notes.append(f"its only value, {value:g}, is taken as foreground")
        return volume != 0, notes
    mask = torch.isin(volume, torch.tensor(_numbers(selector, path), dtype=volume.dtype))
    return mask, notes + _if_empty(mask, values, selector)


def _values(volume: torch.Tensor) -> list[float]:
    """All values, in order; two of them, as most masks have, are found without sorting the voxels."""
    low, high = volume.min(), volume.max()
    if bool(((volume == low) | (volume == high)).all()):
        return sorted({float(low), float(high)})
    found: list[float] = volume.unique().tolist()
    return found


def _if_empty(mask: torch.Tensor, values: Sequence[float], selector: str) -> list[str]:
    """What to say if nothing is chosen: a class that this patient does not have, or a slip in the table."""
    if mask.any() or not any(values):
        return []
    return [f"nothing in it is {selector}, only {_listed(values)}: taken as empty"]


def _only_value(values: Sequence[float], path: Path, cell: str, *, predicted: bool) -> float:
    """The one value besides 0; 0 if there is none."""
    others = [value for value in values if value != 0]
    if len(others) > 1 or (predicted and others and others[0] != round(others[0])):
        raise CaseError(
            "the predicted mask is not binary" if predicted else "the label has several values",
            file=path,
            expected="0 and 1" if predicted else "0 and one other",
            found=_listed(values),
            remedy=_remedy(others, cell),
        )
    return others[0] if others else 0


def _remedy(others: Sequence[float], cell: str) -> str:
    """How to choose, without leaving out anything that might be meant."""
    if any(value != round(value) for value in others):
        return (
            "These are shares or probabilities, or an interpolated mask: say from which value on a voxel is "
            f"foreground: {cell}::{LEAST}VALUE."
        )
    if len(others) <= _NAMED:
        every = join_cell(cell, ",".join(f"{value:g}" for value in others))
    elif others[0] > 0:
        every = join_cell(cell, f"{LEAST}{others[0]:g}")
    else:
        return f"Say which are foreground: {cell}::VALUE,VALUE."
    return f"Say which are foreground; all of them: {every}."


def _numbers(selector: str, path: Path) -> list[float]:
    try:
        return [float(piece) for piece in selector.split(",")]
    except ValueError:
        raise CaseError(
            "the values of the label are no numbers", file=path, expected="::1,2,3", found=f"::{selector}"
        ) from None


def _listed(values: Sequence[float]) -> str:
    """Values in ascending order, in words."""
    if len(values) > _NAMED:
        return f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)
