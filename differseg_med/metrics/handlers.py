"""The measures during training: the same functions and policy, in mm, as a MONAI metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from differseg_med.geometry import Grid
from differseg_med.metrics.case import Settings, case_metrics
from differseg_med.metrics.policy import MEASURES


class CaseMetric(CumulativeIterationMetric):
    """One measure of `case_metrics` averaged over cases, for ``IgniteMetricHandler`` or a plain loop.

    MONAI's own handlers for distances get no spacing, so they report voxels, and their means leave out cases with an
    empty mask. Here the spacing is that of the label's affine, and every case counts.

    Args:
        name: a key of `MEASURES`.
        settings: as for `case_metrics`.

    Raises:
        ValueError: for an unknown measure.

    Example:
        >>> hd95 = CaseMetric("hd95_mm")
        >>> label = MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0])))
        >>> _ = hd95([torch.zeros(1, 4, 4, 4)], [label])
        >>> round(float(hd95.aggregate()), 3)  # missed: the diagonal of 4 x 4 x 12 mm
        13.266
    """

    def __init__(self, name: str, settings: Settings | None = None) -> None:
        super().__init__()
        if name not in MEASURES:
            raise ValueError(f"name must be one of {list(MEASURES)}, got {name!r}")
        self.name, self.settings = name, settings

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Scores ``(B, 1)`` of masks ``(B, 1, H, W, D)`` of 0 and 1; ``y`` must know its affine.

        Raises:
            ValueError: if it does not, or the shapes differ or have more than one channel.
        """
        if not isinstance(y, MetaTensor):
            raise ValueError("the label must be a MetaTensor: without its affine there are no millimetres")
        if y_pred.shape != y.shape or y.ndim != 5 or y.shape[1] != 1:
            raise ValueError(f"expected two masks (B, 1, H, W, D), got {tuple(y_pred.shape)} and {tuple(y.shape)}")
        affine = np.asarray(y.affine, dtype=np.float64)
        spacing_mm = Grid(tuple(y.shape[2:]), affine if affine.ndim == 2 else affine[0]).spacing_mm
        pairs = zip(y_pred[:, 0].cpu().numpy(), y[:, 0].cpu().numpy())
        scores = [float(case_metrics(p, r, spacing_mm, settings=self.settings)[self.name]) for p, r in pairs]
        self._scores += scores
        return torch.tensor(scores, dtype=torch.float64)[:, None]

    def reset(self) -> None:
        """Forget the cases."""
        super().reset()
        self._scores: list[float] = []

    def aggregate(self) -> Tensor:
        """Mean over all cases since the last reset: those of this process, which is the only one that validates.

        Raises:
            ValueError: if there was none.
        """
        if not self._scores:
            raise ValueError("no case has been measured yet")
        return torch.tensor(self._scores, dtype=torch.float64).mean()
