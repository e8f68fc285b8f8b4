"""Quality flags of each case in ``summary.csv``, and the fingerprint of training cases that they are held against."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from differseg_med.cohort.table import Case
from differseg_med.engines.dataset import Item, run_for_case
from differseg_med.engines.progress import progress_bar
from differseg_med.engines.results import CaseResult
from differseg_med.errors import CaseError
from differseg_med.evaluation.evaluate import load_label
from differseg_med.evaluation.quality import Fingerprint, Measures, flags, measure
from differseg_med.transforms.grids import grid_of
from differseg_med.transforms.modalities import CHANNELS, IMAGE
from differseg_med.transforms.pipelines import LABEL

logger = logging.getLogger(__name__)

FLAGS, ENTROPY = "flags", "boundary_entropy"
"""Columns of ``summary.csv``: what a reader should look at, ``; `` between flags; bits."""


class QualityFlags:
    """A `CaseWriter` that adds the columns ``flags`` and ``boundary_entropy``.

    Args:
        fingerprint: what the training cases measured; None judges the mask alone.
    """

    def __init__(self, fingerprint: Fingerprint | None = None) -> None:
        self.fingerprint = fingerprint

    def __call__(self, result: CaseResult, folder: Path) -> Mapping[str, object]:
        """Measure and judge; a picture is only told to be empty: objects in it may touch its border or be several."""
        if result.is_picture:
            return {FLAGS: "" if result.mask.any() else "the mask is empty"}
        image = np.asarray(result.image)
        measures = measure(result.mask, result.grid, image, result.channels, result.probability)
        found = flags(result.mask, result.grid, measures, self.fingerprint)
        for flag in found:
            logger.warning("case %s: %s", result.case.case_id, flag)
        entropy = measures.get("boundary_entropy")
        return {FLAGS: "; ".join(found), ENTROPY: "" if entropy is None else f"{entropy:.3f}"}


def fingerprint_of(cases: Sequence[Case], transform: Callable[[Item], Item]) -> Fingerprint:
    """Measure labelled cases as a prediction would be measured.

    Args:
        cases: training cases; those that cannot be used are logged with the reason and left out.
        transform: preprocessing.

    Raises:
        CaseError: if no case can be used.
    """
    measured: list[Measures] = []
    channels: Sequence[str] = ()

    def one(case: Case) -> Measures:
        if case.problem is not None:
            raise case.problem
        label = load_label(case)
        item = {key: value for key, value in case.as_item().items() if key != LABEL}
        sample = transform(item)
        nonlocal channels
        channels = sample[CHANNELS]
        return measure(label[0].numpy() > 0, grid_of(label), np.asarray(sample[IMAGE]), channels)

    for case in progress_bar(cases, desc="measuring", unit="case"):
        try:
            measured.append(run_for_case(one, case, case))
        except CaseError as error:
            logger.error("left out: %s", error)
    if not measured:
        raise CaseError("no case can be measured", expected="at least one with images and a label")
    return Fingerprint.of(measured, channels)
