"""A scene of 3D Slicer that opens by double click: volumes, segmentation, and how they are shown (MRML).

The elements are those that Slicer itself writes; `tests/export/test_slicer.py` loads the files with Slicer's own code.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from differseg_med.atomic import exporting, write_text
from differseg_med.errors import CaseError
from differseg_med.export.seg_nrrd import save_nrrd_volume, save_seg_nrrd
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.geometry import FloatArray
from differseg_med.io.volumes import load_volume
from differseg_med.modality import display_windows, shown_in_color
from differseg_med.transforms.grids import grid_of

SCENE, MASK_FILE = "scene.mrml", "mask.seg.nrrd"
GREY, COLORED = "vtkMRMLColorTableNodeGrey", "vtkMRMLPETProceduralColorNodePET-Heat"
"""Color tables that every Slicer has."""

Volumes = Mapping[str, tuple[NDArray[Any], FloatArray]]


def save_scene(
    volumes: Volumes,
    reference: str,
    mask: NDArray[Any],
    affine: FloatArray,
    folder: str | Path,
    segment: SegmentInfo,
    kinds: Mapping[str, str] | None = None,
) -> Path:
    """Write volumes (``NAME.nrrd``), ``mask.seg.nrrd`` and ``scene.mrml``, which shows them together.

    The reference lies behind, a modality that is shown in colors (PET), or else the next one, in front of it.

    Args:
        volumes: voxels ``(H, W, D)`` and RAS affine by name, each on its own grid.
        reference: the one that lies behind the others, and that the segmentation belongs to.
        mask: ``(H, W, D)`` of 0 and 1, on the grid of ``affine``.
        affine: 4 x 4, from voxel indices to mm, RAS.
        folder: where to; made if needed.
        segment: what the mask shows.
        kinds: kind of image by name, for windows and colors.

    Returns:
        The scene.

    Raises:
        CaseError: if a file does not hold what was written.
    """
    folder, kinds = Path(folder), kinds or {}
    files = _files([reference, *(name for name in volumes if name != reference)])
    for name, (voxels, own) in volumes.items():
        save_nrrd_volume(voxels, own, folder / files[name])
    save_seg_nrrd(mask, affine, folder / MASK_FILE, segment)
    windows = {name: _window(name, voxels, kinds) for name, (voxels, _) in volumes.items()}
    write_text(folder / SCENE, _mrml(files, windows, kinds, segment.name))
    _verify(folder)
    return folder / SCENE


def write_scene(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``scene``, see `save_scene`."""
    volumes = {name: load_volume(cell) for name, cell in segmented.images.items()}
    arrays = {name: (volume[0].numpy(), grid_of(volume).affine) for name, volume in volumes.items()}
    mask, affine = segmented.mask, segmented.grid.affine
    save_scene(arrays, segmented.reference, mask, affine, path, segmented.segment, segmented.kinds)
    return []


def write_mrb(segmented: Segmented, path: Path) -> Notes:
    """Write the format ``mrb``: the scene in one file, as Slicer's own "medical reality bundle".

    The same input gives the same bytes: the files in it have no date.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "scene"
        notes = write_scene(segmented, folder)
        with exporting(path, ".mrb") as temporary:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as bundle:  # the volumes are compressed already
                for file in sorted(folder.iterdir()):
                    inside = f"scene/{SCENE}" if file.name == SCENE else f"scene/Data/{file.name}"
                    content = file.read_bytes()
                    if file.name == SCENE:
                        content = content.replace(b'fileName="', b'fileName="Data/')
                    bundle.writestr(zipfile.ZipInfo(inside), content)
            with zipfile.ZipFile(temporary) as bundle:
                if damaged := bundle.testzip():
                    raise CaseError(f"{damaged} in the bundle is not what was written", file=path)
    return notes


def _files(names: list[str]) -> dict[str, str]:
    """A file for each modality; two whose names differ in special characters only stay two files."""
    files: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        taken = {file.casefold() for file in files.values()} | {MASK_FILE}
        number = next(n for n in range(1, len(names) + 2) if _numbered(plain, n).casefold() not in taken)
        files[name] = _numbered(plain, number)
    return files


def _numbered(plain: str, number: int) -> str:
    return f"{plain}{f'_{number}' if number > 1 else ''}.nrrd"


def _window(name: str, voxels: NDArray[Any], kinds: Mapping[str, str]) -> tuple[float, float]:
    """Lowest and highest grey value to show: the kind's, else from the 1st percentile to the 99th.

    What is shown in colors begins at 0, where nothing is taken up.
    """
    found = display_windows({name: kinds[name]} if name in kinds else {})
    if name in found:
        return found[name]
    known = voxels[np.isfinite(voxels)]
    low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
    if shown_in_color(kinds.get(name)):
        low, high = 0.0, float(known.max(initial=0.0))
    return float(low), float(high) if high > low else float(low) + 1


def _mrml(
    files: Mapping[str, str], windows: Mapping[str, tuple[float, float]], kinds: Mapping[str, str], title: str
) -> str:
    """The scene; the first of the files is the reference."""
    root = ElementTree.Element("MRML", version="Slicer5.6.2", userTags="")
    ids = {name: f"vtkMRMLScalarVolumeNode{number}" for number, name in enumerate(files, 1)}
    for number, (name, file) in enumerate(files.items(), 1):
        low, high = windows[name]
        shown = {"window": f"{high - low:.6g}", "level": f"{(low + high) / 2:.6g}", "autoWindowLevel": "0"}
        color = COLORED if shown_in_color(kinds.get(name)) else GREY
        shown |= {"interpolate": "1", "colorNodeID": color, "references": f"color:{color};"}
        _node(root, "VolumeDisplay", f"vtkMRMLScalarVolumeDisplayNode{number}", f"{name} display", **shown)
        _stored(root, "VolumeArchetypeStorage", f"vtkMRMLVolumeArchetypeStorageNode{number}", name, file)
        parts = f"display:vtkMRMLScalarVolumeDisplayNode{number};storage:vtkMRMLVolumeArchetypeStorageNode{number};"
        _node(root, "Volume", ids[name], name, references=parts)
    _node(root, "SegmentationDisplay", "vtkMRMLSegmentationDisplayNode1", "mask display", Opacity2DFill="0.3")
    _stored(root, "SegmentationStorage", "vtkMRMLSegmentationStorageNode1", "mask", MASK_FILE)
    reference, *others = files
    parts = "display:vtkMRMLSegmentationDisplayNode1;storage:vtkMRMLSegmentationStorageNode1;"
    parts += f"referenceImageGeometryRef:{ids[reference]};"
    _node(root, "Segmentation", "vtkMRMLSegmentationNode1", title, references=parts)
    front = next((name for name in others if shown_in_color(kinds.get(name))), others[0] if others else None)
    layers = f"backgroundVolume:{ids[reference]};" + (f"foregroundVolume:{ids[front]};" if front else "")
    for view in ("Red", "Green", "Yellow"):
        names = {"singletonTag": view, "layoutName": view, "foregroundOpacity": "0.3", "references": layers}
        _node(root, "SliceComposite", f"vtkMRMLSliceCompositeNode{view}", "SliceComposite", **names)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False) + "\n"


def _node(root: ElementTree.Element, tag: str, identifier: str, name: str, **attributes: str) -> None:
    ElementTree.SubElement(root, tag, {"id": identifier, "name": name, **attributes})


def _stored(root: ElementTree.Element, tag: str, identifier: str, name: str, file: str) -> None:
    _node(root, tag, identifier, f"{name} storage", fileName=quote(file), useCompression="1")


def _verify(folder: Path) -> None:
    """Hold the written scene against the folder: every file that it names is there.

    Raises:
        CaseError: if one is not.
    """
    missing = [name for name in _named(folder / SCENE) if not (folder / name).is_file()]
    if missing:
        raise CaseError("the scene names files that are not there", file=folder / SCENE, found=", ".join(missing))


def _named(scene: Path) -> Iterator[str]:
    """Files that a scene names (all were quoted, and none needs it)."""
    for element in ElementTree.parse(scene).getroot():
        if "fileName" in element.attrib:
            yield element.attrib["fileName"]
