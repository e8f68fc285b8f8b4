"""What the training cases of a cohort measure, without any case: what the rules of a plan read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from differseg_med.atomic import write_text

GREY_PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.5)
"""Of the grey values in the body and in the target."""


@dataclass(frozen=True)
class Spread:
    """A figure over the cases: lowest, 10th percentile, median, 90th percentile, highest."""

    lowest: float
    low: float
    median: float
    high: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(*(float(v) for v in np.percentile(values, (0, 10, 50, 90, 100))))


@dataclass(frozen=True)
class ModalityFacts:
    """What the images of one modality measure.

    Args:
        kind: one of `differseg_med.modality.KINDS`.
        cases: how many cases have it.
        on_label_grid: in how many of them the label is on this image's own grid.
        spacing_mm: along R, A, S (the nearest axis of the file).
        extent_mm: of the body's box (voxels that are not background) along R, A, S.
        field_ml: volume of the whole field of view.
        body: grey values of voxels in the body by percentile, median over the cases; with ``mean`` and ``std``.
        foreground: grey values of voxels in the target by percentile, all cases together.
        noise: standard deviation of the noise in the body, from neighbouring voxels; median over the cases.
        zscore_varies: how much the target's median differs between cases after a z-score, in standard deviations of
            the body; None with fewer than three cases.
        percentile_varies: the same after division by the 99th percentile.
    """

    kind: str
    cases: int
    on_label_grid: int
    spacing_mm: tuple[Spread, Spread, Spread]
    extent_mm: tuple[Spread, Spread, Spread]
    field_ml: Spread
    body: Mapping[str, float] = field(default_factory=dict)
    foreground: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.0
    zscore_varies: float | None = None
    percentile_varies: float | None = None


@dataclass(frozen=True)
class LabelFacts:
    """What the labels measure.

    Args:
        empty: cases whose label is empty; the figures below are of the others.
        volume_ml: of the target.
        components: number of connected components (26 neighbours).
        main_share: share of the volume that the largest component has.
        diameter_mm: diameter of a ball as large as the components at whose size 10 % of the volume is reached, the
            small ones counted first: what must not be lost on the network's grid.
        slice_share: share of the target in the slices that hold some of it.
        right_side: in how many cases the target's centre lies to the right of the body's.
        side_offset: how far it lies from the body's middle, as a share of the body's width; median of the cases.
    """

    empty: int
    volume_ml: Spread
    components: Spread
    main_share: Spread
    diameter_mm: Spread
    slice_share: Spread
    right_side: int = 0
    side_offset: float = 0.0


@dataclass(frozen=True)
class Fingerprint:
    """What the training cases measure; no figure is of one case by name.

    Args:
        cases: training cases that could be read.
        subjects: patients among them.
        flat: whether the images are 2-D images (photographs and the like): millimetres mean nothing.
        single_slices: whether the volumes have one slice only.
        modalities: by name, in the order of the table.
        label: of the targets.
        incomplete: cases that lack some modality.
        aligned: pairs of images whose place was compared, and those among them that are not registered.
        shift_mm: largest shift among those that are not registered.
        seconds_per_case: for reading and measuring a case.
        left_out: cases that could not be used.
    """

    cases: int
    subjects: int
    flat: bool
    single_slices: bool
    modalities: Mapping[str, ModalityFacts]
    label: LabelFacts
    incomplete: int = 0
    aligned: tuple[int, int] = (0, 0)
    shift_mm: float = 0.0
    seconds_per_case: float = 0.0
    left_out: int = 0

    def write(self, path: str | Path) -> None:
        """Write as JSON, four digits each, in one step."""
        write_text(path, json.dumps(_rounded(asdict(self)), indent=1) + "\n")


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
