"""Rules that follow from the training cases alone: kinds, grid, planes, slabs, sampling, loss, what is kept of a mask.

Each is a function of the fingerprint (and of values chosen before) that returns a value and the reason for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from differseg_med.modality import KINDS, label_of
from differseg_med.planning.choices import Size
from differseg_med.planning.fingerprint import Fingerprint, ModalityFacts

Ruled = tuple[Any, str]

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

VOXELS_ACROSS = 6
"""Voxels of the network's grid that the smallest target worth finding must have across."""

SLICES_TO_VOXEL = 2.0
"""Slices up to so many times the network's voxel apart make all three planes worth looking at."""

PLANE_OF_AXIS = ("sagittal", "coronal", "axial")


def normalization(name: str, facts: ModalityFacts) -> Ruled:
    """Kind and settings of a modality, as the bundle declares them."""
    if facts.kind == "ct":
        return _ct(facts)
    if facts.kind == "mr":
        return _mr(facts)
    if facts.kind == "image":
        return {"kind": "image", **IMAGENET}, "the mean and spread of the photographs that the encoder was trained on"
    if facts.kind == "depth":
        return {"kind": "depth", "percentile": 2}, "scaled within each image; 2 % at either end are cut off"
    return {"kind": facts.kind}, f"the usual way for {label_of(facts.kind)}: {KINDS[facts.kind].normalization}"


def _ct(facts: ModalityFacts) -> Ruled:
    if not facts.foreground:
        return {"kind": "ct"}, "no voxel of a target lies in a CT: the window of soft tissue is taken"
    low, high = facts.foreground["p0.5"], facts.foreground["p99.5"]
    margin = max(0.25 * (high - low), (160 - (high - low)) / 2)
    window = [float(math.floor((low - margin) / 10) * 10), float(math.ceil((high + margin) / 10) * 10)]
    reason = (
        f"99 % of the target's voxels have {low:.0f} to {high:.0f} HU; a quarter more on either side shows what is "
        "around it"
    )
    settings: dict[str, Any] = {"kind": "ct", "window": window}
    if (share := facts.noise / (window[1] - window[0])) > 0.03:
        settings["smooth"] = 0.75
        reason += f"; smoothed, as the noise of {facts.noise:.0f} HU is {share:.0%} of it"
    return settings, reason


def _mr(facts: ModalityFacts) -> Ruled:
    zscore, percentile = facts.zscore_varies, facts.percentile_varies
    if zscore is None or percentile is None:
        return {"kind": "mr"}, "z-score: too few cases to compare it with the 99th percentile"
    figures = f"the target's grey value varies between cases by {zscore:.2f} standard deviations after a z-score"
    if percentile < 0.9 * zscore:
        return {"kind": "mr", "percentile": 99}, f"{figures}, by {percentile:.2f} after division by the 99th percentile"
    return {"kind": "mr"}, f"z-score: {figures}, by {percentile:.2f} after division by the 99th percentile"


def reference(fingerprint: Fingerprint) -> Ruled:
    """The modality on whose grid masks will be: that which the labels were drawn on."""
    facts = fingerprint.modalities
    best = max(facts, key=lambda name: (facts[name].on_label_grid, facts[name].cases, -list(facts).index(name)))
    if facts[best].on_label_grid == 0:
        return best, "no image has the grid of its label; this one is there most often"
    return best, (
        f"the label is on its grid in {facts[best].on_label_grid} of {fingerprint.cases} cases"
        + _others_as_good(fingerprint, best)
    )


def _others_as_good(fingerprint: Fingerprint, best: str) -> str:
    alike = [
        n for n, f in fingerprint.modalities.items() if f.on_label_grid == fingerprint.modalities[best].on_label_grid
    ]
    return f"; the same holds for {', '.join(alike[1:])}, which come after it in the table" if len(alike) > 1 else ""


def in_plane_mm(facts: ModalityFacts) -> float:
    """The median spacing of the finest axis."""
    return min(spread.median for spread in facts.spacing_mm)


def network_mm(fingerprint: Fingerprint, chosen: str, size: Size) -> Ruled:
    """Voxel of the network's grid within the slices, in mm: the coarsest that shows the target and fits the window."""
    facts, target = fingerprint.modalities[chosen], fingerprint.label.diameter_mm
    finest, across = in_plane_mm(facts), max(spread.median for spread in facts.extent_mm)
    coarsest = max(finest, target.low / VOXELS_ACROSS)
    mm = _round(min(max(across / size.window, finest), coarsest), finest)
    reason = f"the images have {finest:.2g} mm, the field of view is {across:.0f} mm across"
    if mm >= across / size.window * 0.9:
        reason += f", which then fits a window of {size.window}"
    elif coarsest <= across / size.window:
        reason += (
            f"; small targets of {target.low:.0f} mm must be {VOXELS_ACROSS} voxels across or as fine as the image"
        )
    return mm, reason


@dataclass(frozen=True)
class Detail:
    """How finely volumes are looked at.

    Args:
        mm: voxel of the network's grid within the slices.
        three: whether all three planes are, where they are worth it.
        why: the reason for the voxel.
        why_one: the reason for one plane where three were worth it.
    """

    mm: float
    three: bool
    why: str
    why_one: str = ""


def details(fingerprint: Fingerprint, chosen: str, size: Size) -> Iterator[Detail]:
    """The finest detail that the images are worth, then what costs less and less: one plane, then coarser voxels."""
    facts = fingerprint.modalities[chosen]
    mm, why = network_mm(fingerprint, chosen, size)
    yield Detail(mm, True, why)
    yield Detail(mm, False, why)
    finest, fits = mm, max(spread.median for spread in facts.extent_mm) / size.window
    while mm < fits:
        mm = min(math.floor(mm * 2 + 1) / 2, max(_round(fits, finest), mm + 0.1))
        yield Detail(mm, False, f"{why}; {finest:g} mm would suit them")


def _round(mm: float, finest: float) -> float:
    """To half millimetres, or to tenths below 1.25 mm; no finer than the images by it."""
    step = 0.5 if mm >= 1.25 else 0.1
    return max(round(round(mm / step) * step, 2), round(finest, 1))


def planes(fingerprint: Fingerprint, chosen: str, detail: Detail) -> Ruled:
    """Three planes where the slices are close enough, else the plane of the slices."""
    spacing = [spread.median for spread in fingerprint.modalities[chosen].spacing_mm]
    axis = max(range(3), key=lambda i: (round(spacing[i] / min(spacing), 1), i))  # axial where all are alike
    if fingerprint.single_slices:
        return [PLANE_OF_AXIS[axis]], "the volumes have one slice each"
    words = f"slices are {spacing[axis]:.2g} mm apart, the network's voxel is {detail.mm:g} mm"
    if spacing[axis] <= SLICES_TO_VOXEL * detail.mm and not detail.three:
        return [PLANE_OF_AXIS[axis]], f"{words}, which suits three planes, but {detail.why_one}"
    if spacing[axis] <= SLICES_TO_VOXEL * detail.mm:
        return ["axial", "coronal", "sagittal"], f"{words}: the three planes are averaged"
    return [PLANE_OF_AXIS[axis]], f"{words}: other planes would show interpolation"


def pixdim(fingerprint: Fingerprint, chosen: str, mm: float, used: Sequence[str], why: str) -> Ruled:
    """Voxel of the network's grid along R, A, S in mm."""
    if len(used) > 1:
        return [mm] * 3, f"{why}; the same along all axes for three planes"
    axis = PLANE_OF_AXIS.index(used[0])
    across = fingerprint.modalities[chosen].spacing_mm[axis].median
    if across <= mm:
        return [mm] * 3, f"{why}; the same along all axes"
    return [round(across, 2) if i == axis else mm for i in range(3)], f"{why}; slices stay {across:.2g} mm apart"


def num_slices(fingerprint: Fingerprint) -> Ruled:
    """Slices of a slab per modality."""
    if fingerprint.single_slices:
        return 1, "the volumes have one slice each"
    return 3, "a slice and its two neighbours: the encoder takes three channels"


def slice_step(fingerprint: Fingerprint, grid: Sequence[float], used: Sequence[str]) -> Ruled:
    """Distance of neighbours in a slab, in slices: up to 4 mm, no more than a tenth of a target."""
    across = min(grid) if len(used) > 1 else grid[PLANE_OF_AXIS.index(used[0])]
    wanted = min(4.0, fingerprint.label.diameter_mm.median / 10)
    step = max(1, round(wanted / across))
    return (
        step,
        f"neighbours {step * across:.2g} mm apart; targets measure {fingerprint.label.diameter_mm.median:.0f} mm",
    )


def roi_size(fingerprint: Fingerprint, chosen: str, grid: Sequence[float], used: Sequence[str], most: int) -> Ruled:
    """Window: as large as the body, up to the size of the training."""
    extent = [spread.median for spread in fingerprint.modalities[chosen].extent_mm]
    axes = {a for plane in used for a in range(3) if a != PLANE_OF_AXIS.index(plane)}
    pixels = max(extent[a] / grid[a] for a in axes)
    side = min(most, max(64, round(pixels / 32) * 32))
    words = f"the field of view is {pixels:.0f} pixels across"
    return [side, side], words + (", so a window holds it" if side >= 0.9 * pixels else f", a window {side} of them")


def modality_dropout(fingerprint: Fingerprint) -> Ruled:
    """Share of samples that lose a modality, so that about half of them lack some."""
    if len(fingerprint.modalities) < 2:
        return 0.0, "one modality cannot be left out"
    missing = fingerprint.incomplete / fingerprint.cases
    dropped = round(max((0.5 - missing) / max(1 - missing, 1e-6), 0.1), 2)
    return dropped, f"{missing:.0%} of the cases lack a modality as they are; with this about half of the samples do"


def focal_gamma(fingerprint: Fingerprint) -> Ruled:
    """Focal in place of plain cross-entropy where targets are small."""
    share = fingerprint.label.slice_share.median
    if share < 0.01:
        return 2.0, f"Dice and focal loss: the target fills {share:.2%} of the slices that hold it"
    return 0.0, f"Dice and cross-entropy: the target fills {share:.1%} of the slices that hold it"


def foreground_prob(fingerprint: Fingerprint) -> Ruled:
    """Share of samples whose slice holds some of the target, and of those slices whose window does."""
    share = fingerprint.label.slice_share.median
    prob = 0.85 if share < 0.01 else 0.7
    where = "the same share of their windows holds it, the others lie anywhere in the image"
    return prob, f"share of samples whose slice holds some target, and {where}; it fills {share:.2%} of its slices"


def flip_prob(fingerprint: Fingerprint, target: str) -> Ruled:
    """Whether samples are mirrored: not where left and right differ."""
    label = fingerprint.label
    drawn = fingerprint.cases - label.empty
    if side := next((word for word in ("left", "right") if word in target.casefold().split()), ""):
        return 0.0, f"off: the target is called {side}, mirrored images would show the other side"
    if drawn >= 6 and label.right_side in (0, drawn) and label.side_offset > 0.1:
        where = "right" if label.right_side else "left"
        words = (
            f"off: the target lies {where} of the middle in all {drawn} cases, by {label.side_offset:.0%} of the body"
        )
        return 0.0, words
    count = f"the target lies right of the middle in {label.right_side} of {drawn} cases"
    if label.right_side in (0, drawn) and drawn < 6:
        return 0.5, f"on: {count}, too few to tell whether it always does; --set flip_prob=0 if sides matter"
    if label.right_side in (0, drawn):
        return 0.5, f"on: {count}, but by {label.side_offset:.0%} of the body only, so that it reaches over it"
    return 0.5, f"on: {count}, so sides do not matter"


def max_shift(fingerprint: Fingerprint, mm: float) -> Ruled:
    """How far modalities are moved against each other in samples, in pixels."""
    judged, off = fingerprint.aligned
    if len(fingerprint.modalities) < 2:
        return 0.0, "one modality"
    if off:
        pixels = round(min(max(fingerprint.shift_mm / mm / 2, 2.0), 4.0), 1)
        return pixels, f"{off} of {judged} compared pairs are not registered, by up to {fingerprint.shift_mm:.0f} mm"
    if judged and not any(one_kind_apart(fingerprint)):
        return 1.0, f"all {judged} compared pairs are registered"
    return 2.0, "images of different kinds of scanner may lie apart by some millimetres"


def one_kind_apart(fingerprint: Fingerprint) -> list[bool]:
    """For each pair of modalities whether they are of different kinds."""
    kinds = [facts.kind for facts in fingerprint.modalities.values()]
    return [a != b for a, b in combinations(kinds, 2)]


def largest_only(fingerprint: Fingerprint) -> Ruled:
    """Whether only the largest component of a mask is kept."""
    label = fingerprint.label
    if label.main_share.low >= 0.95:
        return True, f"in nine of ten cases the largest component has {label.main_share.low:.0%} of the target or more"
    return (
        False,
        f"targets have {label.components.median:.0f} components (median), up to {label.components.highest:.0f}",
    )


def threshold() -> Ruled:
    """Cut of the probability."""
    return 0.5, "to be chosen on out-of-fold predictions: train --folds all does"
