"""3D Slicer's own code loads what we write, and we read what it writes: voxels, names, codes, colors."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from pydicom.sr.coding import Code
from scipy.ndimage import gaussian_filter
from support.slicer import Slicer, needs_slicer, quiet
from support.synthetic import Volume, affine_of, label_volume, stored_as, tumour_images, write_nifti

from differseg_med.errors import CaseError
from differseg_med.export.scene import write_mrb, write_scene
from differseg_med.export.seg_nrrd import save_seg_nrrd
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Segmented
from differseg_med.geometry import Grid
from differseg_med.io.labels import load_label
from differseg_med.transforms.grids import grid_of

pytestmark = needs_slicer

GTV = SegmentInfo(
    "Gross tumour <volume> & 'rim'",
    color=(255, 159, 28),
    property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    property_type=Code("86049000", "SCT", "Neoplasm, Primary"),
)


@pytest.fixture
def slicer() -> Slicer:
    return Slicer()


def points(volume: Volume) -> np.ndarray:
    """World positions in mm of the foreground, sorted, by nibabel."""
    return np.array(sorted(apply_affine(volume.affine, np.argwhere(volume.data)).round(3).tolist()))


def grids() -> dict[str, Volume]:
    axial = label_volume()
    oblique = label_volume((20.0, -10.0, 5.0))
    single = Volume(axial.data[:, :, 8:9], axial.affine @ _shifted(8))
    return {
        "axial": axial,
        "oblique": oblique,
        "sagittal": stored_as(axial, "PIR"),
        "left-handed": stored_as(axial, "RAS" if np.linalg.det(axial.affine) < 0 else "LAS"),
        "single slice": single,
        "empty": Volume(np.zeros_like(axial.data), axial.affine),
    }


def _shifted(slices: int) -> np.ndarray:
    shift = np.eye(4)
    shift[2, 3] = slices
    return shift


@pytest.mark.parametrize("name", grids())
def test_a_segmentation_is_where_the_mask_is(name, slicer, tmp_path):
    mask = grids()[name]
    node = slicer.load_segmentation(save_seg_nrrd(mask.data, mask.affine, tmp_path / "mask.seg.nrrd", GTV))
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == GTV.name
    np.testing.assert_allclose(segment.GetColor(), np.array(GTV.color) / 255, atol=1e-4)
    assert slicer.codes(node) == {
        "category": ("SCT", "49755003", "Morphologically Abnormal Structure"),
        "type": ("SCT", "86049000", "Neoplasm, Primary"),
    }
    expected = points(mask)
    assert len(expected) == mask.data.sum()
    found = slicer.points(node)
    if name == "empty":
        assert len(found) == 0
    else:
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_closed_surface_holds_the_volume(slicer, tmp_path):
    """A smooth body: 2 % is what Slicer's smoothing takes away from edges."""
    body = np.zeros((60, 50, 40))
    body[20:40, 15:35, 10:30] = 1
    mask = (gaussian_filter(body, 4) > 0.3).astype(np.uint8)
    node = slicer.load_segmentation(save_seg_nrrd(mask, affine_of(), tmp_path / "m.seg.nrrd", GTV))
    ml = mask.sum() * abs(np.linalg.det(affine_of()[:3, :3])) / 1000
    assert slicer.surface_ml(node) == pytest.approx(ml, rel=0.02)


@pytest.fixture
def segmented(tmp_path) -> Segmented:
    volumes = tumour_images((20, -10, 5))
    label = volumes["label"]
    images = {name: write_nifti(tmp_path / f"{name}.nii.gz", volumes[name]) for name in ("ct", "t1", "pet")}
    kinds = {"ct": "ct", "t1": "mr", "pet": "pet"}
    mask = label.data.astype(np.uint8)
    return Segmented(mask, Grid(mask.shape, label.affine), GTV, images, "t1", "case", kinds=kinds)


@pytest.mark.parametrize("form", ["scene", "mrb"])
def test_a_scene_shows_everything_in_its_place(form, segmented, slicer, tmp_path):
    if form == "scene":
        write_scene(segmented, tmp_path / "scene")
        slicer.open_scene(tmp_path / "scene" / "scene.mrml")
    else:
        write_mrb(segmented, tmp_path / "scene.mrb")
        slicer.open_bundle(tmp_path / "scene.mrb", tmp_path / "unpacked")
    volumes = {node.GetName(): node for node in slicer.nodes("vtkMRMLScalarVolumeNode")}
    assert sorted(volumes) == ["ct", "pet", "t1"]
    for name, node in volumes.items():
        image = nib.load(segmented.images[name])
        found, own = slicer.voxels(node.GetImageData()), slicer.affine(node)
        order = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(own))
        expected = image.as_reoriented(order)  # Slicer turns the last axis of a left-handed image
        np.testing.assert_allclose(own, expected.affine, atol=1e-4)
        np.testing.assert_allclose(found, expected.get_fdata(), rtol=1e-5)
    displays = {name: node.GetDisplayNode() for name, node in volumes.items()}
    assert (displays["ct"].GetWindow(), displays["ct"].GetLevel()) == (400, 40)  # soft tissue: -160 to 240 HU
    assert displays["pet"].GetColorNodeID() == "vtkMRMLPETProceduralColorNodePET-Heat"
    assert displays["t1"].GetColorNodeID() == "vtkMRMLColorTableNodeGrey"
    (node,) = slicer.nodes("vtkMRMLSegmentationNode")
    assert node.GetName() == GTV.name
    assert node.GetNodeReference("referenceImageGeometryRef").GetName() == "t1"
    np.testing.assert_allclose(slicer.points(node), points(Volume(segmented.mask, segmented.grid.affine)), atol=2e-3)
    layers = slicer.nodes("vtkMRMLSliceCompositeNode")
    assert len(layers) == 3
    for layer in layers:
        assert slicer.scene.GetNodeByID(layer.GetBackgroundVolumeID()).GetName() == "t1"
        assert slicer.scene.GetNodeByID(layer.GetForegroundVolumeID()).GetName() == "pet"


def written_by(slicer: Slicer, node, path) -> None:
    storage = slicer.slicer.vtkMRMLSegmentationStorageNode()
    slicer.scene.AddNode(storage)
    storage.SetCropToMinimumExtent(True)
    storage.SetFileName(str(path))
    with quiet():
        assert storage.WriteData(node)


def test_what_slicer_saves_is_read_back_voxel_for_voxel(slicer, tmp_path):
    """Cropped, renamed, with a second segment that overlaps the first, and one that was never painted."""
    mask = label_volume((20.0, -10.0, 5.0))
    node = slicer.load_segmentation(save_seg_nrrd(mask.data, mask.affine, tmp_path / "mask.seg.nrrd", GTV))
    segmentation = node.GetSegmentation()
    segmentation.GetNthSegment(0).SetName("GTV (edited) ü")
    second = slicer.slicer.vtkSegment()
    second.DeepCopy(segmentation.GetNthSegment(0))
    second.SetName("margin")
    segmentation.AddSegment(second, "margin")
    never = segmentation.AddEmptySegment("never", "never painted")
    assert never == "never"
    saved = tmp_path / "saved.seg.nrrd"
    written_by(slicer, node, saved)
    image = write_nifti(tmp_path / "t1.nii.gz", Volume(np.ones(mask.data.shape, np.float32), mask.affine))
    for name in ("GTV (edited) ü", "margin"):
        label = load_label(f"{saved}::{name}", [image])
        found = Volume(label[0].numpy() > 0, grid_of(label).affine)
        np.testing.assert_allclose(points(found), points(mask), atol=2e-3)
    assert not load_label(f"{saved}::never painted", [image]).any()
    with pytest.raises(CaseError, match="segment"):
        load_label(f"{saved}::another", [image])
