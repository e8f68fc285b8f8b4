"""The benchmark measures of saliency maps, by PySODMetrics.

The benchmarks' figures of a set are not always means over pictures: the maximum E and F are those of the mean curve
over 256 thresholds. So a set has an account of its own, `Saliency.results`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.uint8]


class Saliency:
    """Measures of saliency maps, picture by picture and of all together.

    Args:
        stretch: stretch each map to the full range first, as published benchmarks do. It makes a map that is sure of
            nothing look sure, so it is off for everything else.
    """

    def __init__(self, stretch: bool = False) -> None:
        self.stretch = stretch
        self._curves: dict[str, list[NDArray[np.float64]]] = {"e": [], "f": []}
        self._rows: list[dict[str, float]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, saliency: Map, reference: NDArray[np.bool_]) -> dict[str, float]:
        """Measure one map ``(H, W)`` against a mask ``(H, W)``; the keys are those of `IMAGE2D_MEASURES`."""
        # It brings scikit-learn, two seconds that runs on volumes would wait too.
        from py_sod_metrics import (  # type: ignore[import-untyped]
            MAE,
            Emeasure,
            FmeasureHandler,
            FmeasureV2,
            Smeasure,
            WeightedFmeasure,
        )

        measures = {"s": Smeasure(), "e": Emeasure(), "w": WeightedFmeasure(), "mae": MAE()}
        measures["f"] = FmeasureV2({"f": FmeasureHandler(with_dynamic=True, with_adaptive=True)})
        for measure in measures.values():
            if self.stretch:
                measure.step(saliency, reference.astype(np.uint8) * 255, normalize=True)
            else:
                measure.step(saliency / 255.0, reference, normalize=False)
        e, f = measures["e"].get_results()["em"], measures["f"].get_results()["f"]
        self._curves["e"].append(e["curve"])
        self._curves["f"].append(f["dynamic"])
        self._rows.append(
            {
                "s_measure": float(measures["s"].get_results()["sm"]),
                "e_adaptive": float(e["adp"]),
                "e_mean": float(e["curve"].mean()),
                "e_max": float(e["curve"].max()),
                "f_weighted": float(measures["w"].get_results()["wfm"]),
                "f_adaptive": float(f["adaptive"]),
                "f_mean": float(f["dynamic"].mean()),
                "f_max": float(f["dynamic"].max()),
                "mae": float(measures["mae"].get_results()["mae"]),
            }
        )
        return dict(self._rows[-1])

    def results(self) -> dict[str, float]:
        """The figures of the set as benchmarks print them; empty without pictures."""
        if not self._rows:
            return {}
        means = {name: float(np.mean([row[name] for row in self._rows])) for name in self._rows[0]}
        highest = {f"{name}_max": float(np.mean(curves, axis=0).max()) for name, curves in self._curves.items()}
        return means | highest
