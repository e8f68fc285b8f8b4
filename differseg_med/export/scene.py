"""A folder to drop on 3D Slicer: volumes, segmentation, and a script that arranges them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from differseg_med.atomic import write_text
from differseg_med.export.seg_nrrd import save_nrrd_volume, save_seg_nrrd
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.geometry import FloatArray
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.grids import grid_of

SCRIPT = "open_in_slicer.py"

TEMPLATE = """# Slicer --python-script open_in_slicer.py, or execfile(".../open_in_slicer.py") in its Python console
import os

import slicer

folder = os.path.dirname(os.path.abspath(globals().get("__file__", "open_in_slicer.py")))
volumes = [slicer.util.loadVolume(os.path.join(folder, name)) for name in {volumes}]
segmentation = slicer.util.loadSegmentation(os.path.join(folder, "{mask}"))
segmentation.CreateClosedSurfaceRepresentation()
slicer.util.setSliceViewerLayers(background=volumes[0], foreground={foreground}, foregroundOpacity=0.3, fit=True)
slicer.util.resetThreeDViews()
"""


def save_scene(
    volumes: Mapping[str, tuple[NDArray[Any], FloatArray]],
    reference: str,
    mask: NDArray[Any],
    affine: FloatArray,
    folder: str | Path,
    segment: SegmentInfo,
) -> Path:
    """Write volumes (``NAME.nrrd``), ``mask.seg.nrrd`` and ``open_in_slicer.py``.

    Args:
        volumes: voxels ``(H, W, D)`` and RAS affine by name, each on its own grid.
        reference: the one that lies behind the others.
        mask: ``(H, W, D)`` of 0 and 1, on the grid of ``affine``.
        affine: 4 x 4, from voxel indices to mm, RAS.
        folder: where to; made if needed.
        segment: what the mask shows.

    Returns:
        The script.

    Raises:
        CaseError: if a file does not hold what was written.
    """
    folder = Path(folder)
    names = {name: f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.nrrd" for name in (reference, *volumes)}
    for name, (voxels, own) in volumes.items():
        save_nrrd_volume(voxels, own, folder / names[name])
    mask_file = save_seg_nrrd(mask, affine, folder / "mask.seg.nrrd", segment)
    foreground = "volumes[1]" if len(names) > 1 else "None"
    script = TEMPLATE.format(volumes=list(names.values()), mask=mask_file.name, foreground=foreground)
    write_text(folder / SCRIPT, script)
    return folder / SCRIPT


def write_scene(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``scene``, see `save_scene`."""
    volumes = {name: load_volume(cell) for name, cell in segmented.images.items()}
    arrays = {name: (volume[0].numpy(), grid_of(volume).affine) for name, volume in volumes.items()}
    save_scene(arrays, segmented.reference, segmented.mask, segmented.grid.affine, path, segmented.segment)
    return []
