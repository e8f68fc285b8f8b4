"""Figures of the reports, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from differseg_med.metrics.policy import KNOWN
from differseg_med.metrics.statistics import MeasureSummary, limits_of_agreement
from differseg_med.reports import sheets
from differseg_med.reports.colors import ACCENT, EMPTY, GRID, INK, MASK_COLOR
from differseg_med.reports.pages import MIN_GROUP
from differseg_med.reports.sheets import lines, sheet, value_axis


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without global state and its axes; sizes in inches."""
    made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made, made.subplots()


def png(made: Figure) -> bytes:
    """The figure as PNG with a palette: charts have few colors, and the dots of 2,000 cases take 133 kB, not 463."""
    made.set_dpi(sheets.DPI)
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()).quantize(64).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def distributions(values: Mapping[str, ArrayLike], empty: Sequence[bool]) -> bytes:
    """One panel per measure, every case a dot; cases with an empty mask stand out, and a box if there are enough cases.

    Args:
        values: ``(cases,)`` by name of the measure.
        empty: per case whether one of its masks is empty.
    """
    columns = min(4, len(values))
    rows = -(-len(values) // columns)
    made, ax = sheet(2.6 * columns, 2.8 * rows)
    marked = np.asarray(empty, dtype=bool)
    frames, grid, dots = [], [], []
    for place, (name, data) in enumerate(values.items()):
        y = np.asarray(data, dtype=np.float64)
        low, high = _limits(name, values)
        left, bottom, width, height = (
            2.6 * (place % columns) + 0.55,
            2.8 * (rows - 1 - place // columns) + 0.1,
            2.0,
            2.4,
        )
        frame, *ticks = value_axis(ax, (left, bottom, width, height), (low, high))
        frames.append(frame)
        grid += ticks
        ax.text(left + width / 2, bottom + height + 0.08, KNOWN[name].label, ha="center", fontsize=12)
        up = bottom + height * (y - low) / (high - low)
        # The same case stands at the same place in every panel, so that it can be followed by eye.
        dots.append([left + width * (0.5 + 0.35 * (np.random.default_rng(0).random(y.size) - 0.5)), up])
        if y.size >= MIN_GROUP:
            median = {"color": ACCENT, "linewidth": 2}
            middle, broad = [left + width / 2], 0.62 * width
            ax.boxplot(up, positions=middle, widths=broad, showfliers=False, medianprops=median, manage_ticks=False)
    lines(ax, frames, "black", 0.8)
    lines(ax, grid, GRID, 0.5)
    x, y = np.array(dots).swapaxes(0, 1)  # (measures, cases)
    ax.scatter(x[:, ~marked], y[:, ~marked], s=14, color=INK, alpha=0.7)
    ax.scatter(x[:, marked], y[:, marked], s=22, color=EMPTY, marker="x")
    return png(made)


def _limits(name: str, values: Mapping[str, ArrayLike]) -> tuple[float, float]:
    """One axis for all scores, one for all lengths; others have their own."""
    if KNOWN[name].better == "higher":
        return -0.04, 1.04
    if KNOWN[name].unit == "mm":
        top = max(1.0, *(float(np.max(data)) for other, data in values.items() if KNOWN[other].unit == "mm"))
        return -0.04 * top, 1.06 * top
    low, high = float(np.min(values[name])), float(np.max(values[name]))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def bland_altman(predicted_ml: ArrayLike, reference_ml: ArrayLike) -> bytes:
    """Difference of the volumes against their mean in ml; limits of agreement if there are `MIN_GROUP` cases."""
    predicted, reference = np.asarray(predicted_ml, dtype=np.float64), np.asarray(reference_ml, dtype=np.float64)
    difference = predicted - reference
    made, ax = figure(6.0, 3.8)
    ax.scatter((predicted + reference) / 2, difference, s=18, color=INK, alpha=0.8)
    mean, low, high = limits_of_agreement(difference)
    lines = [(mean, "-", "mean"), (low, "--", "-1.96 SD"), (high, "--", "+1.96 SD")]
    for value, style, text in lines if difference.size >= MIN_GROUP else []:
        ax.axhline(value, linestyle=style, color=ACCENT, linewidth=1.2)
        ax.annotate(
            f"{text} {value:+.1f}",
            (1.01, value),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            color=INK,
            va="center",
        )
    ax.axhline(0, color=GRID, linewidth=0.8)
    ax.set(xlabel="mean of predicted and reference volume (ml)", ylabel="predicted - reference (ml)")
    ax.grid(alpha=0.3)
    return png(made)


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> bytes:
    """Share of target voxels against the mean probability of each bin; bars are the interval of the mean over cases.

    Args:
        bins: rows of `differseg_med.metrics.calibration.reliability`.
    """
    made, ax = figure(4.2, 3.8)
    ax.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
    at = [row["probability"] for row in bins]
    for x, row in zip(at, bins):
        if row["target_low"] is not None and row["cases"] >= MIN_GROUP:
            ax.vlines(x, row["target_low"], row["target_high"], color=INK, linewidth=1)
    ax.plot(at, [row["target"] for row in bins], "o-", color=ACCENT, markersize=5)
    ax.set(xlabel="mean probability", ylabel="share of target voxels", xlim=(0, 1), ylim=(0, 1))
    ax.grid(alpha=0.3)
    return png(made)


def paired_differences(panels: Mapping[str, Sequence[float]], label: str) -> bytes:
    """Differences of paired cases, one column of dots per pair of models; above zero the second model has more."""
    made, ax = figure(max(4.0, 1.6 * len(panels) + 1.5), 3.6)
    for place, data in enumerate(panels.values()):
        y = np.asarray(data, dtype=np.float64)
        x = place + 0.25 * (np.random.default_rng(0).random(y.size) - 0.5)
        ax.scatter(x, y, s=16, color=INK, alpha=0.7)
        ax.hlines(float(np.median(y)), place - 0.25, place + 0.25, color=ACCENT, linewidth=2)
    ax.axhline(0, color=GRID, linewidth=0.8)
    ax.set_xticks(range(len(panels)), list(panels), fontsize=8)
    ax.set(ylabel=f"difference in {label}", xlim=(-0.6, len(panels) - 0.4))
    ax.grid(axis="y", alpha=0.3)
    return png(made)


def bars(summaries: Mapping[str, MeasureSummary], label: str) -> bytes:
    """Means with their intervals, one bar per group."""
    made, ax = figure(6.0, 0.45 * len(summaries) + 1.2)
    means = np.array([summary.mean for summary in summaries.values()])
    enough = [s.subjects >= MIN_GROUP for s in summaries.values()]
    low = [s.mean_low if e and s.mean_low is not None else s.mean for s, e in zip(summaries.values(), enough)]
    high = [s.mean_high if e and s.mean_high is not None else s.mean for s, e in zip(summaries.values(), enough)]
    spread = [means - low, np.subtract(high, means)] if any(enough) else None
    ax.barh(list(summaries), means, color=MASK_COLOR, xerr=spread, ecolor=INK, capsize=3)
    ax.invert_yaxis()
    ax.set(xlabel=f"{label}, mean{' and 95 % interval' if any(enough) else ''}", xlim=(0, None))
    ax.grid(axis="x", alpha=0.3)
    return png(made)
