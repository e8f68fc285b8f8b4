"""One set of colours, from the outline on an image to the dots of a chart; readable for the colour-blind."""

from __future__ import annotations

from collections.abc import Sequence

MASK_COLOR, REFERENCE_COLOR = "#ff9f1c", "#2ec4ff"
"""The predicted mask and the reference, on grey values and in charts."""

INK, ACCENT, EMPTY, GRID = "#33415c", "#0f766e", "#c2255c", "#9aa3b2"
"""Text and dots, what is summed up (mean, median), cases with an empty mask, lines of no meaning."""

_MODALITIES = ("#4477aa", "#228833", "#aa3377", "#997700", "#994455", "#66aabb", "#555555")
"""By the place of the modality in the table; the last one for whatever comes after it. Paul Tol's schemes."""


def modality_colors(modalities: Sequence[str]) -> dict[str, str]:
    """A colour for each modality, by name, in the order in which they are declared."""
    return {name: _MODALITIES[min(i, len(_MODALITIES) - 1)] for i, name in enumerate(dict.fromkeys(modalities))}
