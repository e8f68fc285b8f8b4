"""A slice view of 3D Slicer's own code without a window: needs OpenGL by EGL, Mesa's will do; a helper, not a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.slicer import Slicer, quiet


def slicer_view(slicer: Slicer, volume: Any, node: Any, path: Path, size: int = 500) -> np.ndarray:
    """Draw the axial slice through a segmentation's middle; ``(H, W, 3)``. The fill would hide the image offscreen."""
    from vtkmodules import vtkRenderingOpenGL2  # noqa: F401  (the window that draws)
    from vtkmodules.vtkIOImage import vtkPNGWriter
    from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow, vtkRenderWindowInteractor
    from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter as Shot

    window, renderer, interactor = vtkRenderWindow(), vtkRenderer(), vtkRenderWindowInteractor()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(size, size)
    renderer.GetActiveCamera().ParallelProjectionOn()
    window.AddRenderer(renderer)
    interactor.SetRenderWindow(window)
    kept = _show(slicer, volume, node, renderer, size)
    with quiet():
        window.Render()
        shot, writer = Shot(), vtkPNGWriter()
        shot.SetInput(window)
        shot.ReadFrontBufferOff()
        writer.SetFileName(str(path))
        writer.SetInputConnection(shot.GetOutputPort())
        writer.Write()
    assert kept  # not collected before it was drawn
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _show(slicer: Slicer, volume: Any, node: Any, renderer: Any, size: int) -> list[Any]:
    """Put the slice and the outline into a renderer; what has to be kept until it is drawn."""
    from vtkmodules.vtkRenderingCore import vtkActor2D, vtkImageMapper

    mrml = slicer.slicer
    logic = mrml.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(slicer.app)
    slicer.app.GetSliceLogics().AddItem(logic)
    logic.SetMRMLScene(slicer.scene)
    view = logic.AddSliceNode("Red")
    factory = mrml.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(slicer.app)
    factory.RegisterDisplayableManager("vtkMRMLSegmentationsDisplayableManager2D")
    group = mrml.vtkMRMLDisplayableManagerGroup()
    group.Initialize(factory, renderer)
    group.SetMRMLDisplayableNode(view)
    node.GetDisplayNode().SetVisibility2DFill(False)
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    view.SetOrientation("Axial")
    logic.ResizeSliceNode(size, size)
    logic.FitSliceToBackground()
    view.JumpSliceByCentering(*node.GetSegmentCenterRAS(node.GetSegmentation().GetNthSegmentID(0)))
    mapper, actor = vtkImageMapper(), vtkActor2D()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    renderer.AddViewProp(actor)
    return [logic, factory, group, mapper, actor]
