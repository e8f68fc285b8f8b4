"""Quality flags of each case in ``summary.csv``, and the fingerprint of training cases that they are held against."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from differseg_med.case import Case, run_for_case
from differseg_med.io.labels import load_case_label
from differseg_med.keys import CHANNELS, IMAGE
from differseg_med.prediction.dataset import Item
from differseg_med.prediction.quality import AGREEMENT, Fingerprint, flags, measure
from differseg_med.prediction.result import CaseResult
from differseg_med.progress import progress_bar
from differseg_med.transforms.grids import grid_of

logger = logging.getLogger(__name__)

FLAGS, ENTROPY, FOLDS = "flags", "boundary_entropy", "fold_agreement"
"""Columns of ``summary.csv``: what a reader should look at, ``; `` between flags; bits; mean Dice of the masks of an
ensemble's networks."""


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
