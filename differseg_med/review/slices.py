"""What the page shows of a case: images, mask, label and probability as bytes on one grid, that of the mask."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import from_matvec
from nibabel.orientations import inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from differseg_med.case import Case
from differseg_med.components import foreground_box, foreground_center
from differseg_med.errors import CaseError
from differseg_med.evaluation.run import OVERLAYS
from differseg_med.export.registry import FORMATS
from differseg_med.geometry import Grid
from differseg_med.io.labels import load_case_label
from differseg_med.io.volumes import load_mask, load_volume
from differseg_med.metrics.case import binary
from differseg_med.reports.overlay import closest_ras
from differseg_med.reports.run import PART, read_part
from differseg_med.review.results import case_file, case_mask
from differseg_med.transforms.grids import grid_of, restore_grid
from differseg_med.transforms.restoring import resample_mask

MOST_SHOWN = 12_000_000
"""Voxels of a volume in the page; of a larger one every second, third, ... is shown along each axis."""

AROUND_MM = 50.0
"""Surroundings of the mask that are shown where no images say how much there is."""

Bytes = NDArray[np.uint8]


def case_slices(folder: Path, case_id: str, case: Case | None = None) -> dict[str, Any]:
    """What the page shows of a case.

    Args:
        folder: results of a run.
        case_id: of the case.
        case: its row of the cohort table, for its label; None if there is none.

    Returns:
        ``picture`` (address of an image) of what has no slices, else ``shape`` (x, y, z), ``spacing_mm``, ``affine``
        (RAS), ``center`` (voxel), ``levels`` and, each gzip and base64 with x running fastest, ``volumes`` (name to
        grey values), ``mask``, and if they are there ``label`` and ``probability`` (0 to 255);
        in either case ``notes``.

    Raises:
        CaseError: if there is nothing to show.
    """
    part, mask = _part(folder, case_id), case_mask(folder, case_id)
    if mask is None or mask.suffix == ".png":  # of a photograph
        return _picture(folder, case_id, part, mask)
    loaded = load_mask(mask)
    voxels, grid = binary(loaded[0].numpy(), "predicted", mask).view(np.uint8), grid_of(loaded)
    images = {name: _nifti(text) for name, text in (part.get("volumes") or {}).items()}
    notes = [] if images else [f"the case has no {PART} with images: the mask alone is shown"]
    label, more = _label(case, grid)
    window = _window(voxels, label, grid, [*images.values()])
    shown = Grid(
        tuple(len(range(*s.indices(n))) for s, n in zip(window, grid.shape)),
        grid.affine @ from_matvec(np.diag([float(s.step) for s in window]), [s.start for s in window]),
    )
    if window[0].step > 1:
        notes.append(f"the grid is large: one voxel in {window[0].step} along each axis is shown")
    orientation = io_orientation(shown.affine)
    turned, spacing_mm = closest_ras(voxels[window], shown.affine)
    found: dict[str, Any] = {
        "shape": turned.shape,
        "spacing_mm": spacing_mm,
        "affine": (shown.affine @ inv_ornt_aff(orientation, shown.shape)).tolist(),
        "levels": int(part.get("levels", 1)),
        "center": _center(turned),
        "volumes": {name: _packed(_on(image, shown), shown) for name, image in images.items()},
        "mask": _packed(voxels[window], shown),
        "notes": [*notes, *more],
    }
    if label is not None:
        found["label"] = _packed(label[window], shown)
    if (path := case_file(folder, case_id, FORMATS["probability"].file)) is not None:
        found["probability"] = _packed(_share(path, shown), shown)
    return found


def _part(folder: Path, case_id: str) -> Mapping[str, Any]:
    path = case_file(folder, case_id, PART)
    return (read_part(path) if path else None) or {}


def _picture(folder: Path, case_id: str, part: Mapping[str, Any], mask: Path | None) -> dict[str, Any]:
    """What there is of a case without slices: a photograph, or the overlay that an evaluation drew."""
    if mask is not None and part.get("picture"):
        return {"picture": f"data:image/webp;base64,{part['picture']}", "notes": []}
    drawn = folder / OVERLAYS / f"{case_id}.png"
    if mask is None and not part and drawn.is_file() and drawn.resolve().is_relative_to(folder.resolve()):
        notes = ["the masks lie in another folder: `differseg-med view` that one to look through the slices"]
        address = f"data:image/png;base64,{base64.b64encode(drawn.read_bytes()).decode('ascii')}"
        return {"picture": address, "notes": notes}
    raise CaseError(
        "there is no mask of this case here",
        case=case_id,
        remedy="Run the case again, or view the folder that its mask lies in.",
    )


def _nifti(text: str) -> MetaTensor:
    """A volume of `differseg_med.reports.views.part_of` with a rim of "no data", so that nothing goes on beyond it."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
    voxels = np.pad(np.asarray(image.dataobj, dtype=np.float32), 1)
    affine = np.asarray(image.affine) @ from_matvec(np.eye(3), (-1, -1, -1))
    return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.tensor(affine))


def _label(case: Case | None, grid: Grid) -> tuple[Bytes | None, list[str]]:
    """The label on the mask's grid, and what is to be said of it; a label that cannot be read costs only itself."""
    if case is None or case.label is None:
        return None, []
    try:
        loaded = load_case_label(case)
    except CaseError as error:
        return None, [f"the label is not shown: {error.for_case(case.case_id)}"]
    own = binary(loaded[0].numpy(), "label").view(np.uint8)
    label = resample_mask(own, grid_of(loaded), grid)
    before, after = (int(m.sum()) * g.voxel_volume_mm3 / 1000 for m, g in ((own, grid_of(loaded)), (label, grid)))
    far = abs(after - before) > 0.02 * before
    return label, [f"the label has {before:.2f} ml, {after:.2f} of them on the mask's grid"] if far else []


def _window(mask: Bytes, label: Bytes | None, grid: Grid, images: list[MetaTensor]) -> tuple[slice, ...]:
    """What is shown of the mask's grid: where there are images, else around the mask; all of the label."""
    margin = [round(AROUND_MM / mm) for mm in grid.spacing_mm]
    boxes = [box for box in (foreground_box(mask, 0 if images else margin),) if box is not None]
    if label is not None and (box := foreground_box(label, 2)) is not None:
        boxes.append(box)
    for image in images[:1]:
        corners = grid.indices(grid_of(image).corners())
        low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)) + 1
        boxes.append(tuple(slice(int(a), int(b)) for a, b in zip(low, high)))
    boxes = boxes or [tuple(slice(0, n) for n in grid.shape)]
    starts = [max(0, min(s.start for s in axis)) for axis in zip(*boxes)]
    stops = [min(n, max(s.stop for s in axis)) for axis, n in zip(zip(*boxes), grid.shape)]
    sizes = np.maximum(np.subtract(stops, starts), 1)
    step = max(1, int(np.ceil((float(np.prod(sizes, dtype=float)) / MOST_SHOWN) ** (1 / 3))))
    return tuple(slice(a, max(b, a + 1), step) for a, b in zip(starts, stops))


def _on(image: MetaTensor, grid: Grid) -> Bytes:
    return np.rint(restore_grid(image, grid)[0].numpy()).astype(np.uint8)


def _share(path: Path, grid: Grid) -> Bytes:
    return np.rint(255 * np.clip(restore_grid(load_volume(path), grid)[0].numpy(), 0, 1)).astype(np.uint8)


def _packed(voxels: Bytes, grid: Grid) -> str:
    turned, _ = closest_ras(voxels, grid.affine)
    return base64.b64encode(gzip.compress(turned.tobytes(order="F"), 1, mtime=0)).decode("ascii")


def _center(mask: Bytes) -> list[int]:
    """The middle of the mask; of an empty one, that of the grid."""
    middle = foreground_center(mask)
    return [int(n) for n in np.rint((np.array(mask.shape) - 1) / 2 if middle is None else middle)]
