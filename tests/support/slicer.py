"""3D Slicer's own code without its windows (the package slicer-core): reads files as the program does."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

needs_slicer = pytest.mark.skipif(
    importlib.util.find_spec("slicer") is None, reason="needs pip install differseg-med[slicer]"
)
"""Looks without importing, which takes 4 s: the first `Slicer` of a process does that."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what VTK and ITK print off the terminal; they write to the file descriptor."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Slicer:
    """A scene with the logics that loading needs, set up like the program's."""

    def __init__(self) -> None:
        import slicer
        from vtkmodules.vtkCommonCore import vtkCollection

        self.slicer, self.scene = slicer, slicer.vtkMRMLScene()
        self.app = app = slicer.vtkSlicerApplicationLogic()
        app.SetMRMLScene(self.scene)
        app.SetSliceLogics(vtkCollection())
        app.SetViewLogics(vtkCollection())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.colors = self._register(slicer.vtkMRMLColorLogic(), "Colors")  # kept: it takes its nodes away when it goes
        self.colors.AddDefaultColorNodes()
        self.volumes = self._register(slicer.vtkSlicerVolumesLogic(), "Volumes")
        with quiet():  # it misses its lists, which only translate codes into other words
            self.terminologies = self._register(slicer.vtkSlicerTerminologiesModuleLogic(), "Terminologies")
        self.segmentations = self._register(slicer.vtkSlicerSegmentationsModuleLogic(), "Segmentations")
        self._register(slicer.vtkSlicerSubjectHierarchyModuleLogic(), "SubjectHierarchy")

    def _register(self, logic: Any, name: str) -> Any:
        logic.SetMRMLScene(self.scene)
        logic.SetMRMLApplicationLogic(self.app)
        self.app.SetModuleLogic(name, logic)
        return logic

    def load_volume(self, path: Path) -> Any:
        from vtkmodules.vtkCommonCore import vtkStringArray

        with quiet():
            return self.volumes.AddArchetypeVolume(str(path), path.name.split(".")[0], 0, vtkStringArray())

    def load_segmentation(self, path: Path) -> Any:
        """As the program's reader does."""
        with quiet():
            return self.segmentations.LoadSegmentationFromFile(str(path), True)

    def open_scene(self, path: Path) -> None:
        """As a double click on a ``.mrml`` does."""
        with quiet():
            self.scene.SetURL(str(path))
            assert self.scene.Connect()

    def open_bundle(self, path: Path, empty: Path) -> None:
        """As a double click on a ``.mrb`` does; ``empty`` is where it is unpacked."""
        empty.mkdir()
        with quiet():
            assert self.app.OpenSlicerDataBundle(str(path), str(empty))

    def nodes(self, name: str) -> list[Any]:
        """All nodes of a class, as ``vtkMRMLScalarVolumeNode``."""
        return [self.scene.GetNthNodeByClass(n, name) for n in range(self.scene.GetNumberOfNodesByClass(name))]

    def affine(self, volume: Any) -> NDArray[np.float64]:
        """From voxel indices to mm, RAS."""
        from vtkmodules.vtkCommonMath import vtkMatrix4x4

        matrix = vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        return _array(matrix)

    def voxels(self, image: Any) -> NDArray[Any]:
        """``(i, j, k)`` of an image of VTK."""
        from vtkmodules.util.numpy_support import vtk_to_numpy

        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).T

    def points(self, segmentation: Any, number: int = 0) -> NDArray[np.float64]:
        """World positions in mm (RAS) of a segment's voxels, sorted."""
        from vtkmodules.vtkCommonMath import vtkMatrix4x4

        labelmap, matrix = self.slicer.vtkOrientedImageData(), vtkMatrix4x4()
        identifier = segmentation.GetSegmentation().GetNthSegmentID(number)
        assert segmentation.GetBinaryLabelmapRepresentation(identifier, labelmap)
        labelmap.GetImageToWorldMatrix(matrix)
        extent = labelmap.GetExtent()
        indices = np.argwhere(self.voxels(labelmap)) + extent[::2]
        return np.array(sorted((indices @ _array(matrix)[:3, :3].T + _array(matrix)[:3, 3]).round(3).tolist()))

    def surface_ml(self, segmentation: Any, number: int = 0) -> float:
        """Volume in ml within a segment's closed surface."""
        from vtkmodules.vtkCommonDataModel import vtkPolyData
        from vtkmodules.vtkFiltersCore import vtkMassProperties, vtkTriangleFilter

        segmentation.CreateClosedSurfaceRepresentation()
        surface = vtkPolyData()
        segmentation.GetClosedSurfaceRepresentation(segmentation.GetSegmentation().GetNthSegmentID(number), surface)
        triangles, mass = vtkTriangleFilter(), vtkMassProperties()
        triangles.SetInputData(surface)
        mass.SetInputConnection(triangles.GetOutputPort())
        return float(mass.GetVolume()) / 1000

    def codes(self, segmentation: Any, number: int = 0) -> dict[str, tuple[str, str, str]]:
        """Scheme, value and meaning of a segment's category and type, as Slicer's own parser reads them."""
        from vtkmodules.vtkCommonCore import reference

        text, entry = reference(""), self.slicer.vtkSlicerTerminologyEntry()
        segment = segmentation.GetSegmentation().GetNthSegment(number)
        assert segment.GetTag("TerminologyEntry", text)
        assert self.terminologies.DeserializeTerminologyEntry(text.get(), entry)
        parts = {"category": entry.GetCategoryObject(), "type": entry.GetTypeObject()}
        return {
            name: (part.GetCodingSchemeDesignator(), part.GetCodeValue(), part.GetCodeMeaning())
            for name, part in parts.items()
        }


def _array(matrix: Any) -> NDArray[np.float64]:
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
