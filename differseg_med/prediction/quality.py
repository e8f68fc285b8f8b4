"""Is there something about a case or its mask that a reader should look at first? Measured, then said in words.

A flag is no verdict: it names what is unlike the training cases, or what masks of one target seldom are. What each
number was in training is in the bundle's fingerprint.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.atomic import write_text
from differseg_med.case import Case, run_for_case
from differseg_med.components import Mask, component_sizes
from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.io.labels import load_case_label
from differseg_med.keys import CHANNELS, IMAGE
from differseg_med.metrics.case import boundary_entropy, overlap
from differseg_med.prediction.dataset import Item
from differseg_med.prediction.result import CaseResult
from differseg_med.progress import progress_bar
from differseg_med.transforms.grids import grid_of

logger = logging.getLogger(__name__)

PERCENTILES = (5, 25, 75, 95)
"""Of the normalised intensities. Not the median: where fat and muscle are two peaks it jumps from one to the other."""

LOWEST = f"_p{PERCENTILES[0]}"

SLACK = 1.25
"""Volumes and lengths are flagged from this many times beyond what was seen in training."""

ENTROPY_SLACK = 1.05
"""Boundaries are flagged from this many times the highest entropy of the predictions that the fingerprint saw."""

MARGIN = 0.5
"""Intensities are flagged from this share of the training range's width beyond it."""

AGREEMENT = 0.7
"""Mean Dice of the masks of an ensemble's networks below which a case is flagged."""

FLAGS, ENTROPY, FOLDS = "flags", "boundary_entropy", "fold_agreement"
"""Columns of ``summary.csv``: what a reader should look at, ``; `` between flags; bits; mean Dice of the masks of an
ensemble's networks."""

Measures = dict[str, float]

WORDS = {
    "volume_ml": "volume {:.1f} ml",
    "spacing_finest_mm": "finest voxel spacing {:.2f} mm",
    "spacing_coarsest_mm": "coarsest voxel spacing {:.2f} mm",
    "extent_shortest_mm": "shortest edge of the field of view {:.0f} mm",
    "extent_longest_mm": "longest edge of the field of view {:.0f} mm",
}
SIDES = {"L": "left", "R": "right", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
OPPOSITE = dict(zip("LRAPSI", "RLPAIS"))


@dataclass(frozen=True)
class Fingerprint:
    """What the training cases measured: lowest and highest value by name, see `measure`.

    Args:
        cases: number of training cases.
        ranges: (lowest, highest) by the name of the measure.
        modalities: number of training cases that had each; empty if that is not known.
    """

    cases: int
    ranges: dict[str, tuple[float, float]]
    modalities: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Sequence[Measures], modalities: Sequence[str] = ()) -> Fingerprint:
        """The ranges of several cases; a measure that a case lacks (an absent modality) is left to the others.

        Args:
            measured: what `measure` returned for each.
            modalities: those to count, also where no case has them.
        """
        names = sorted({name for measures in measured for name in measures})
        values = {name: [m[name] for m in measured if name in m] for name in names}
        counts = {name: sum(name in modalities_of(m) for m in measured) for name in dict.fromkeys(modalities)}
        return cls(len(measured), {name: (min(v), max(v)) for name, v in values.items()}, counts)

    @classmethod
    def read(cls, path: str | Path) -> Fingerprint:
        """Read what `write` wrote.

        Raises:
            CaseError: if it is no fingerprint.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            ranges = {k: (float(a), float(b)) for k, (a, b) in content["ranges"].items()}
            counts = {k: int(count) for k, count in content.get("modalities", {}).items()}
            return cls(int(content["cases"]), ranges, counts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CaseError(
                "this is not a fingerprint of training cases",
                file=path,
                found=type(error).__name__,
                remedy="Make it with scripts/make_fingerprint.py, or set fingerprint to null.",
            ) from error

    def write(self, path: str | Path) -> None:
        """Write as JSON, four digits each, in one step."""
        ranges = {name: [float(f"{value:.4g}") for value in limits] for name, limits in self.ranges.items()}
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(limits)}" for name, limits in ranges.items())
        counts = json.dumps(self.modalities)
        write_text(
            path, f'{{\n  "cases": {self.cases},\n  "modalities": {counts},\n  "ranges": {{\n{lines}\n  }}\n}}\n'
        )


def measure(
    mask: Mask,
    grid: Grid,
    image: NDArray[np.float32],
    channels: Sequence[str],
    probability: NDArray[np.floating[Any]] | None = None,
) -> Measures:
    """Figures of a case and its mask that training cases and new ones are compared by.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on ``grid``.
        grid: grid of the reference image, as in its file.
        image: ``(C, h, w, d)``, normalised, what the network sees; 0 is no data.
        channels: the modality of each channel of ``image``. One of zeros is absent and has no figures.
        probability: ``(H, W, D)`` on ``grid``.

    Returns:
        ``volume_ml``, ``pieces`` (26-connected), ``spacing_finest_mm``, ``spacing_coarsest_mm``,
        ``extent_shortest_mm``, ``extent_longest_mm``, per modality ``<name>_p5`` and so on, and with a probability and
        a boundary ``boundary_entropy`` in bits.
    """
    found: Measures = {
        "volume_ml": float(np.count_nonzero(mask)) * grid.voxel_volume_mm3 / 1000,
        "pieces": float(len(component_sizes(mask))),
        "spacing_finest_mm": min(grid.spacing_mm),
        "spacing_coarsest_mm": max(grid.spacing_mm),
        "extent_shortest_mm": min(grid.extent_mm),
        "extent_longest_mm": max(grid.extent_mm),
    }
    for name in dict.fromkeys(channels):
        values = image[[i for i, channel in enumerate(channels) if channel == name]]
        values = values[values != 0]
        if values.size:
            found |= {f"{name}_p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES))}
    if probability is not None:
        entropy = boundary_entropy(mask, probability, grid.spacing_mm)
        found |= {} if entropy is None else {"boundary_entropy": entropy}
    return found


def modalities_of(measures: Mapping[str, float]) -> list[str]:
    """The modalities that have intensities among the measures, that is those that are present."""
    return [name.removesuffix(LOWEST) for name in measures if name.endswith(LOWEST)]


def flags(
    mask: Mask,
    grid: Grid,
    measures: Mapping[str, float],
    fingerprint: Fingerprint | None = None,
    withheld: Sequence[str] = (),
) -> list[str]:
    """What a reader should look at, in plain words with figures; empty if nothing.

    Args:
        mask: ``(H, W, D)`` of 0 and 1 on ``grid``.
        grid: grid of the reference image.
        measures: what `measure` returned.
        fingerprint: of the training cases; without one only the mask itself is judged.
        withheld: modalities that the case has and the run was told to leave out: that they are absent is no news.
    """
    empty = not np.any(mask)
    unlike = [*_unlike_training(measures, fingerprint, without_mask=empty), *_absent(measures, fingerprint, withheld)]
    if empty:
        return ["the mask is empty", *unlike]
    return [*_at_the_border(mask, grid), *_in_pieces(mask, fingerprint), *unlike]


def mean_agreement(masks: Sequence[Mask]) -> float | None:
    """Mean Dice of all pairs of masks ``(H, W, D)``, two empty ones agree; None with fewer than two."""
    pairs = [overlap(np.asarray(a, dtype=np.bool_), np.asarray(b, dtype=np.bool_)) for a, b in combinations(masks, 2)]
    return float(np.mean(pairs)) if pairs else None


class QualityFlags:
    """A `CaseWriter` that adds the columns ``flags`` and ``boundary_entropy``.

    Args:
        fingerprint: what the training cases measured; None judges the mask alone.
    """

    def __init__(self, fingerprint: Fingerprint | None = None) -> None:
        self.fingerprint = fingerprint

    def __call__(self, result: CaseResult, folder: Path) -> Mapping[str, object]:
        """Measure and judge; a picture is only told to be empty: objects in it may touch its border or be several."""
        if result.is_image2d:
            return {FLAGS: "" if result.mask.any() else "the mask is empty"}
        image = np.asarray(result.image)
        measures = measure(result.mask, result.grid, image, result.channels, result.probability)
        found = flags(result.mask, result.grid, measures, self.fingerprint, result.case.withheld)
        if result.agreement is not None and result.agreement < AGREEMENT:
            found.append(f"the networks of the folds disagree: mean Dice of their masks {result.agreement:.2f}")
        for flag in found:
            logger.warning("case %s: %s", result.case.case_id, flag)
        entropy = measures.get("boundary_entropy")
        row: dict[str, object] = {FLAGS: "; ".join(found), ENTROPY: "" if entropy is None else f"{entropy:.3f}"}
        return row if result.agreement is None else row | {FOLDS: f"{result.agreement:.3f}"}


def fingerprint_of(cases: Sequence[Case], items: Sequence[Item]) -> Fingerprint:
    """Measure training cases as a prediction would be measured.

    Args:
        cases: of the table.
        items: those among them that are trained on, preprocessed, see `cached_items`.

    Raises:
        CaseError: if the label of one cannot be read any more.
    """
    by_id = {case.case_id: case for case in cases}
    measured = []
    for item in progress_bar(items, desc="measuring", unit="case"):
        case = by_id[item["case_id"]]
        label = run_for_case(load_case_label, case, case)  # the item's is on the network's grid
        measured.append(measure(np.asarray(label[0]) > 0, grid_of(label), np.asarray(item[IMAGE]), item[CHANNELS]))
    return Fingerprint.of(measured, items[0][CHANNELS])


def _at_the_border(mask: Mask, grid: Grid) -> Iterable[str]:
    found = []
    for axis, code in enumerate(grid.axcodes):
        if mask.shape[axis] == 1:  # a single slice is all border
            continue
        face_cm2 = grid.voxel_volume_mm3 / grid.spacing_mm[axis] / 100
        for index, side in ((0, OPPOSITE[code]), (-1, code)):
            touched = int(np.count_nonzero(np.take(mask, index, axis=axis)))
            if touched:
                found.append(f"{SIDES[side]} ({touched * face_cm2:.1f} cm2)")
    if found:
        yield f"the mask touches the border of the field of view (the target may continue outside): {', '.join(found)}"


def _in_pieces(mask: Mask, fingerprint: Fingerprint | None) -> Iterable[str]:
    sizes = component_sizes(mask)
    _, most = fingerprint.ranges.get("pieces", (1, 1)) if fingerprint else (1, 1)
    if len(sizes) > most:
        usual = f" (in training at most {most:.0f})" if fingerprint else ""
        share = f"{sizes[0] / sum(sizes):.0%}"
        yield f"the mask has {len(sizes)} connected components{usual}, the largest with {share} of its volume"


def _unlike_training(
    measures: Mapping[str, float], fingerprint: Fingerprint | None, without_mask: bool = False
) -> Iterable[str]:
    if fingerprint is None:
        return
    for name, words in WORDS.items():
        low, high = fingerprint.ranges.get(name, (0.0, math.inf))
        if (name != "volume_ml" or not without_mask) and not low / SLACK <= measures[name] <= high * SLACK:
            yield f"{words.format(measures[name])}, in training {_figure(low)} to {_figure(high)}"
    _, high = fingerprint.ranges.get("boundary_entropy", (0.0, math.inf))
    if measures.get("boundary_entropy", 0.0) > high * ENTROPY_SLACK:
        yield f"unsure boundary: mean entropy {measures['boundary_entropy']:.2f} bits, usually up to {high:.2f}"
    present = modalities_of(measures)
    for modality in present:
        yield from _unlike_intensities(modality, measures, fingerprint)


def _absent(measures: Mapping[str, float], fingerprint: Fingerprint | None, withheld: Sequence[str]) -> Iterable[str]:
    present = modalities_of(measures)
    for modality, count in (fingerprint.modalities if fingerprint else {}).items():
        if fingerprint and count == fingerprint.cases and modality not in (*present, *withheld):
            yield f"{modality} is absent, and all {count} training cases had it"
        if count == 0 and modality in present:
            yield f"{modality} was in no training case: the network does not know it"


def _unlike_intensities(modality: str, measures: Mapping[str, float], fingerprint: Fingerprint) -> Iterable[str]:
    """The percentile that is farthest outside its training range, if one is outside by more than `MARGIN`."""
    worst, text = MARGIN, ""
    for p in PERCENTILES:
        value, (low, high) = (
            measures[f"{modality}_p{p}"],
            fingerprint.ranges.get(f"{modality}_p{p}", (-math.inf, math.inf)),
        )
        beyond = max(low - value, value - high) / max(high - low, 0.1)  # a range of one case has no width
        if beyond > worst:
            worst = beyond
            text = (
                f"intensities of {modality} unlike training: {p}th percentile {value:.2f} after normalisation, "
                f"in training {low:.2f} to {high:.2f}"
            )
    if text:
        yield text


def _figure(value: float) -> str:
    return f"{value:.4g}"
