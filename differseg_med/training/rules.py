"""How probabilities become a mask, and which way is best on predictions that no network was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from differseg_med.components import CONNECTIVITY, large_components, largest_component
from differseg_med.geometry import BoolArray
from differseg_med.metrics.case import overlap

THRESHOLDS = tuple(round(0.2 + 0.05 * i, 2) for i in range(14))
"""Those that are tried: 0.20 to 0.85."""

Probability = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Rule:
    """How probabilities become a mask: the arguments of `differseg_med.transforms.restoring.postprocessing`.

    Args:
        threshold: on the probability.
        largest_only: keep the largest connected component only.
        min_component_ml: remove components smaller than this volume in ml.
        connectivity: neighbours of a voxel that are the same component.
    """

    threshold: float = 0.5
    largest_only: bool = False
    min_component_ml: float = 0.0
    connectivity: int = CONNECTIVITY

    def apply(self, probability: Probability, voxel_mm3: float) -> BoolArray:
        """The mask of a probability ``(H, W, D)`` whose voxels have this volume in mm3."""
        mask = np.asarray(probability >= self.threshold, dtype=np.bool_)
        if self.min_component_ml > 0:
            mask = large_components(mask, (self.min_component_ml - 1e-9) * 1000 / voxel_mm3, self.connectivity)
        return largest_component(mask, self.connectivity) if self.largest_only else mask

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"probability from {self.threshold:g}"]
        parts += [f"components from {self.min_component_ml:g} ml"] * (self.min_component_ml > 0)
        return ", ".join([*parts, "the largest component only" if self.largest_only else "every component"])


def candidates(own: Rule) -> list[Rule]:
    """The rules that are tried: each threshold, with and without the largest component only; the rest as in ``own``."""
    return [
        replace(own, threshold=threshold, largest_only=largest) for threshold in THRESHOLDS for largest in (False, True)
    ]


def scores_of(
    probability: Probability, label: BoolArray, voxel_mm3: float, rules: Sequence[Rule]
) -> NDArray[np.float64]:
    """Dice of each rule ``(rules,)`` for a probability and a label ``(H, W, D)`` on one grid."""
    return np.array([overlap(rule.apply(probability, voxel_mm3), label) for rule in rules])


def best_rule(scores: Sequence[NDArray[np.float64]], rules: Sequence[Rule]) -> tuple[Rule, float]:
    """The rule with the highest mean Dice over cases, the first of equals, and that mean.

    Args:
        scores: per case ``(rules,)``, at least one.
        rules: in their order.
    """
    means = np.mean(scores, axis=0)
    best = int(means.argmax())
    return rules[best], float(means[best])


def nested_rules(
    scores: Mapping[str, NDArray[np.float64]], folds: Mapping[str, str], rules: Sequence[Rule], own: Rule
) -> dict[str, Rule]:
    """The rule of each fold, chosen on the cases of the other folds: what a fold is scored with.

    Args:
        scores: per case ``(rules,)``.
        folds: of each case.
        rules: in their order.
        own: for a fold that is the only one so far.
    """
    chosen = {}
    for fold in dict.fromkeys(folds[case] for case in scores):
        others = [score for case, score in scores.items() if folds[case] != fold]
        chosen[fold] = best_rule(others, rules)[0] if others else own
    return chosen
