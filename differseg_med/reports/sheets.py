"""Figures of many panels on one sheet: axes and ticks for each would cost more than all that they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

DPI = 110
"""Pixels per inch of everything that is drawn."""


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without global state, and one axes over all of it: coordinates are inches from the lower left corner."""
    made = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(made)
    ax = made.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    ax.set_axis_off()
    return made, ax


def value_axis(
    ax: Axes, box: tuple[float, float, float, float], limits: tuple[float, float]
) -> list[list[tuple[float, float]]]:
    """Write the values of a panel at its left, and return its frame and its grid lines, for `lines`.

    Args:
        ax: of a `sheet`.
        box: left, bottom, width and height of the panel in inches.
        limits: values at its bottom and top.

    Returns:
        Paths of ``(x, y)`` in inches: the frame first, then one line per value.
    """
    left, bottom, width, height = box
    low, high = limits
    right, top = left + width, bottom + height
    paths = [[(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]]
    for tick in MaxNLocator(5).tick_values(low, high):
        if low <= tick <= high:
            y = bottom + height * (tick - low) / (high - low)
            ax.text(left - 0.06, y, f"{tick:g}", ha="right", va="center_baseline", fontsize=9)
            paths.append([(left, y), (right, y)])
    return paths


def lines(ax: Axes, paths: Sequence[ArrayLike], color: str, width: float) -> None:
    """Draw open paths, each ``(N, 2)`` in inches; ``width`` in points."""
    drawn = LineCollection([np.asarray(path) for path in paths], colors=[color], linewidths=width)
    ax.add_collection(drawn, autolim=False)
