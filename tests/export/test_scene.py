"""A folder for 3D Slicer: its files lie in one space, and the script names files and calls that exist."""

from __future__ import annotations

import ast
import sys
import types
from unittest.mock import MagicMock

import numpy as np
import SimpleITK as sitk
import slicerio
from support.synthetic import affine_of, tumour_images

from differseg_med.export.scene import save_scene
from differseg_med.export.segment import SegmentInfo
from differseg_med.geometry import affine_from_itk

DOCUMENTED = {"loadVolume", "loadSegmentation", "setSliceViewerLayers", "resetThreeDViews"}
"""Of slicer.util, from Slicer's script repository and the source of its util module."""

PYTHONS = {"util", "path", "join", "dirname", "abspath", "get"}


def scene(folder):
    images = tumour_images((20, -10, 5))
    volumes = {name: (images[name].data, images[name].affine) for name in ("ct", "t1", "pet")}
    label = images["label"]
    return save_scene(volumes, "t1", label.data, label.affine, folder, SegmentInfo("GTV")), images


def test_files_are_where_the_images_are(tmp_path):
    _, images = scene(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "ct.nrrd",
        "t1.nrrd",
        "pet.nrrd",
        "mask.seg.nrrd",
        "open_in_slicer.py",
    }
    for name in ("ct", "t1", "pet"):
        image = sitk.ReadImage(str(tmp_path / f"{name}.nrrd"))
        affine = affine_from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        np.testing.assert_allclose(affine, images[name].affine, atol=1e-6)
        np.testing.assert_allclose(sitk.GetArrayFromImage(image).T, images[name].data, rtol=1e-6)
    read = slicerio.read_segmentation(str(tmp_path / "mask.seg.nrrd"))
    np.testing.assert_array_equal(read["voxels"], images["label"].data)


def test_the_script_loads_what_is_there_and_calls_what_slicer_documents(tmp_path, monkeypatch):
    """Slicer itself is not here: a stand-in records what the script asks of it."""
    script, _ = scene(tmp_path)
    text = script.read_text()
    assert len(text.splitlines()) <= 15
    used = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    assert used - DOCUMENTED == PYTHONS | {"CreateClosedSurfaceRepresentation"}
    slicer = types.SimpleNamespace(util=MagicMock(spec=sorted(DOCUMENTED)))
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    exec(compile(text, str(script), "exec"), {"__file__": str(script)})
    loaded = [call.args[0] for call in slicer.util.loadVolume.call_args_list]
    assert loaded == [str(tmp_path / name) for name in ("t1.nrrd", "ct.nrrd", "pet.nrrd")]  # the reference first
    slicer.util.loadSegmentation.assert_called_once_with(str(tmp_path / "mask.seg.nrrd"))
    assert slicer.util.setSliceViewerLayers.call_args.kwargs["fit"] is True


def test_names_of_modalities_become_names_of_files(tmp_path):
    volumes = {"t1 Gd/ß": (np.zeros((3, 3, 3)), affine_of())}
    save_scene(volumes, "t1 Gd/ß", np.zeros((3, 3, 3)), affine_of(), tmp_path, SegmentInfo("GTV"))
    assert "t1_Gd__.nrrd" in {p.name for p in tmp_path.iterdir()}
