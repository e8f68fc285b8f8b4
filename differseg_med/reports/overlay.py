"""Pictures to look at: three planes through the lesion with the outlines of mask and reference.

Pictures follow the radiological convention: the patient's right is on the left of axial and coronal pictures, anterior
on the left of sagittal ones. Letters on the borders of each picture say so.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from skimage.measure import find_contours

from differseg_med.atomic import replacing
from differseg_med.geometry import FloatArray
from differseg_med.reports import sheets
from differseg_med.reports.colors import MASK_COLOR, REFERENCE_COLOR
from differseg_med.reports.sheets import lines, sheet

Array = NDArray[Any]

GREY_MAP = colormaps["gray"].with_extremes(bad="black")

COLUMN_INCHES, GAP = 3.2, 0.08

Box = tuple[float, float, float, float]
"""Left, bottom, width and height on a sheet in inches."""

WEBP_METHOD = 2
"""Effort of the encoder, 0 to 6: half of the time of its default 4, for files that are a twelfth larger."""

NOTE = "Radiological convention: R is the patient's right. Not for diagnosis."


@dataclass(frozen=True)
class View:
    """One picture of a volume in RAS orientation: which axes run right and up, and what the borders are called."""

    name: str
    across: int
    flipped: bool
    up: int
    letters: str  # left, right, bottom, top


VIEWS = (
    View("axial", 0, True, 1, "RLPA"),
    View("coronal", 0, True, 2, "RLIS"),
    View("sagittal", 1, True, 2, "APIS"),
)


def closest_ras(volume: Array, affine: FloatArray) -> tuple[Array, tuple[float, float, float]]:
    """Turn and mirror a volume ``(H, W, D)`` so that its axes run nearest to right, anterior and superior.

    Args:
        volume: voxels on the grid of ``affine``; nothing is interpolated.
        affine: 4 x 4, from voxel indices to mm, RAS.

    Returns:
        The turned volume and its spacing in mm.
    """
    orientation = io_orientation(affine)
    spacing = np.empty(3)
    spacing[orientation[:, 0].astype(int)] = voxel_sizes(affine)
    i, j, k = spacing.tolist()
    turned: Array = apply_orientation(volume, orientation)
    return turned, (i, j, k)


def save_overlay(background: Array | Mapping[str, Array], mask: Array | None, path: str | Path, **options: Any) -> Path:
    """Save what `draw_overlay` draws.

    Args:
        background, mask, options: see there.
        path: the image to write, ``.png``, ``.webp`` or ``.jpg``.

    Returns:
        The path of the image.

    Raises:
        ValueError: as `draw_overlay`.
    """
    drawn = draw_overlay(background, mask, **options, suffix=Path(path).suffix[1:] or "png")
    with replacing(path) as temporary:
        temporary.write_bytes(drawn)
    return Path(path)


def draw_overlay(
    background: Array | Mapping[str, Array],
    mask: Array | None,
    *,
    spacing_mm: tuple[float, float, float],
    reference: Array | None = None,
    title: str = "",
    windows: Mapping[str, tuple[float, float]] | None = None,
    suffix: str = "png",
) -> bytes:
    """Draw axial, coronal and sagittal planes with the outlines of ``mask`` and ``reference``.

    The planes go through the mask's centre of gravity; without foreground through the reference's, else the middle of
    the image.

    Args:
        background: one image ``(H, W, D)`` in RAS orientation (see `closest_ras`), or several by name: one row each.
        mask: ``(H, W, D)`` of 0 and 1 on the same grid, or None for none.
        spacing_mm: size of a voxel along right, anterior, superior in mm.
        reference: reference mask ``(H, W, D)``; the legend then says the Dice.
        title: a line above the pictures. Case ids only, never names.
        windows: grey values (lowest, highest) by name of a background (`differseg_med.modality.display_windows`), else
            the 1st to 99th percentile of what is not 0.
        suffix: ``png``, ``webp`` or ``jpg``.

    Returns:
        The content of an image file.

    Raises:
        ValueError: if the arrays do not all have one shape ``(H, W, D)``.
    """
    rows = dict(background) if isinstance(background, Mapping) else {"": np.asarray(background)}
    masks = [np.asarray(m).astype(bool) for m in (mask, reference) if m is not None]
    shapes = {np.shape(array) for array in (*rows.values(), *masks)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ValueError(f"background, mask and reference must have one shape (H, W, D), got {sorted(shapes)}")
    outlines = [(m, c) for m, c in ((mask, MASK_COLOR), (reference, REFERENCE_COLOR)) if m is not None]
    center = _center(masks, next(iter(shapes)))
    extent: FloatArray = np.multiply(next(iter(shapes)), spacing_mm)
    figure, ax, boxes = _canvas(len(rows), extent)
    for (name, volume), line in zip(rows.items(), boxes):
        window = (windows or {}).get(name) or _window(np.asarray(volume))
        for plane, box in zip(VIEWS, line):
            _draw(ax, plane, np.asarray(volume), outlines, center, box, window)
        left, bottom, _, height = line[0]
        figure.text(*_of(figure, left - 0.15, bottom + height / 2), name.upper(), va="center", ha="center", rotation=90)
    for plane, (left, bottom, width, height) in zip(VIEWS, boxes[0]):
        figure.text(*_of(figure, left + width / 2, bottom + height + 0.06), plane.name, ha="center", fontsize=9)
    _annotate(figure, mask, reference, title)
    return encoded(figure, suffix)


def encoded(figure: Figure, suffix: str = "png") -> bytes:
    """A figure as the content of an image file."""
    buffer = io.BytesIO()
    effort = {"method": WEBP_METHOD} if suffix == "webp" else {}
    figure.savefig(buffer, format=suffix, dpi=sheets.DPI, pil_kwargs=effort)
    return buffer.getvalue()


def _center(masks: list[Array], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The slice of each axis nearest to the centre of gravity of the first mask that is not empty."""
    for mask in masks:
        if mask.any():
            profiles = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
            i, j, k = (round(float(np.average(np.arange(len(p)), weights=p))) for p in profiles)
            return i, j, k
    i, j, k = (n // 2 for n in shape)
    return i, j, k


def _window(volume: Array) -> tuple[float, float]:
    """Grey values for black and white; 0 and what is not a number are outside the field of view, not tissue."""
    values = volume[np.isfinite(volume) & (volume != 0)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (1, 99)).tolist()
    return low, max(high, low + 1e-6)


def _slice(volume: Array, plane: View, center: tuple[int, int, int]) -> Array:
    """One picture, rows upwards and columns to the right."""
    through = ({0, 1, 2} - {plane.across, plane.up}).pop()
    picture = np.take(volume, center[through], axis=through)  # the axes that remain keep their order: across before up
    return (picture[::-1] if plane.flipped else picture).T


def _draw(
    ax: Axes,
    plane: View,
    volume: Array,
    outlines: list[tuple[Array, str]],
    center: tuple[int, int, int],
    box: Box,
    window: tuple[float, float],
) -> None:
    picture = _slice(volume, plane, center)
    left, bottom, width, height = box
    place = (left, left + width, bottom, bottom + height)
    low, high = window
    drawn = ax.imshow(picture, cmap=GREY_MAP, origin="lower", extent=place, vmin=low, vmax=high, aspect="auto")
    drawn.set_interpolation("nearest")
    for mask, color in outlines:
        cut = np.pad(_slice(np.asarray(mask).astype(float), plane, center), 1)  # closed at the image's border
        scale = np.divide((width, height), picture.shape[::-1])
        paths = [(path[:, ::-1] - 0.5) * scale + (left, bottom) for path in find_contours(cut, 0.5)]
        lines(ax, paths, color, 1.4)
    places = ((0.05, height / 2), (width - 0.05, height / 2), (width / 2, 0.04), (width / 2, height - 0.04))
    for letter, (right, up), ha, va in zip(
        plane.letters, places, ("left", "right", "center", "center"), ("center", "center", "bottom", "top")
    ):
        text = ax.text(left + right, bottom + up, letter, color="white", fontsize=9, weight="bold", ha=ha, va=va)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _canvas(rows: int, extent_mm: FloatArray) -> tuple[Figure, Axes, list[list[Box]]]:
    """A sheet with one row of three pictures per background, all of one scale, and their places on it in inches."""
    inches = COLUMN_INCHES / max(extent_mm[plane.across] for plane in VIEWS)  # per mm
    sizes = [(inches * extent_mm[plane.across], inches * extent_mm[plane.up]) for plane in VIEWS]
    tallest = max(height for _, height in sizes)
    lefts = np.cumsum([0.35, *(width + GAP for width, _ in sizes)]).tolist()
    figure, ax = sheet(lefts[-1], rows * (tallest + GAP) + 1.15)
    bottoms = [0.55 + (tallest + GAP) * row for row in reversed(range(rows))]
    return (
        figure,
        ax,
        [
            [(left, bottom + (tallest - height) / 2, width, height) for left, (width, height) in zip(lefts, sizes)]
            for bottom in bottoms
        ],
    )


def _of(figure: Figure, x: float, y: float) -> tuple[float, float]:
    """A place in inches in parts of the figure."""
    width, height = figure.get_size_inches()
    return x / width, y / height


def _annotate(figure: Figure, mask: Array | None, reference: Array | None, title: str) -> None:
    handles = []
    if mask is not None:
        handles.append(Line2D([], [], color=MASK_COLOR, label="mask" if np.any(mask) else "mask (empty)"))
    if reference is not None:
        label = "reference" if np.any(reference) else "reference (empty)"
        handles.append(Line2D([], [], color=REFERENCE_COLOR, label=label))
    dice = "" if mask is None or reference is None else f"   Dice {_dice(mask, reference):.3f}"
    if title or dice:
        figure.suptitle(f"{title}{dice}", fontsize=11)
    figure.supxlabel(NOTE, y=_of(figure, 0, 0.33)[1], fontsize=7, color="#555555")
    if handles:
        figure.legend(handles=handles, loc="lower right", ncols=2, fontsize=8, frameon=False)


def _dice(mask: Array, reference: Array) -> float:
    a, b = np.asarray(mask).astype(bool), np.asarray(reference).astype(bool)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
