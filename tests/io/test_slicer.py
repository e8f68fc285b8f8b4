"""Segmentations of 3D Slicer, of today and of old versions, as slicerio and 3D Slicer itself read them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from numpy.testing import assert_allclose, assert_array_equal
from support.drawing import assert_refused
from support.making import ras

from differseg_med.errors import CaseError
from differseg_med.io.labels import load_label

SHARED = Path(__file__).parents[3] / "shared" / "data"
SLICER = SHARED / "slicer_seg_nrrd"
ODD = Path(__file__).parents[1] / "data" / "odd_inputs"
needs_slicer = pytest.mark.skipif(not SLICER.is_dir(), reason="needs ../shared/data/slicer_seg_nrrd")


@needs_slicer
@pytest.mark.parametrize("name", ["Segmentation.seg.nrrd", "SegmentationOverlapping.seg.nrrd"])
def test_segments_of_slicer_as_slicerio_reads_them(name):
    content = slicerio.read_segmentation(str(SLICER / name))
    for number, segment in enumerate(content["segments"], 1):
        voxels = content["voxels"][segment["layer"]] if content["voxels"].ndim == 4 else content["voxels"]
        expected = voxels == segment["labelValue"]
        for selector in (segment["name"].upper(), number):
            label = load_label(f"{SLICER / name}::{selector}", [SLICER / "CTChest4.nrrd"])
            assert_array_equal(label[0] > 0, expected)
            assert expected.any()
    assert_allclose(label.affine, ras(content["ijkToLPS"]), atol=1e-6)


def slicer_file(path: Path, voxels: np.ndarray, fields: str, directions: str, kinds: str) -> Path:
    sizes = " ".join(str(n) for n in voxels.shape)
    header = (
        f"NRRD0004\ntype: unsigned char\ndimension: {voxels.ndim}\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {directions}\nkinds: {kinds}\nencoding: raw\nspace origin: (-3,-4,5)\n{fields}\n"
    )
    path.write_bytes(header.encode() + voxels.astype(np.uint8).tobytes(order="F"))
    return path


def test_old_slicer_files_have_a_layer_per_segment(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 2, (2, 5, 4, 3))
    fields = "Segment0_ID:=a\nSegment0_Name:=tumour\nSegment1_ID:=b\nSegment1_Name:=cyst\n"
    directions = "none (1,0,0) (0,1,0) (0,0,2)"
    path = slicer_file(tmp_path / "a.seg.nrrd", voxels, fields, directions, "list domain domain domain")
    assert_array_equal(load_label(f"{path}::cyst")[0] > 0, voxels[1] > 0)
    assert_allclose(
        load_label(f"{path}::1").affine, ras(np.array([[1.0, 0, 0, -3], [0, 1, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]]))
    )


def test_a_cropped_segmentation_is_put_where_it_belongs(tmp_path):
    """3D Slicer cuts off empty borders; its extent hides what lies outside."""
    voxels = np.ones((3, 2, 2))
    fields = "Segment0_ID:=a\nSegment0_Name:=t\nSegment0_LabelValue:=1\nSegment0_Extent:=0 1 0 1 0 1\n"
    path = slicer_file(tmp_path / "a.seg.nrrd", voxels, fields, "(1,0,0) (0,1,0) (0,0,2)", "domain domain domain")
    affine = np.array([[-1.0, 0, 0, 5], [0, -1, 0, 6], [0, 0, 2, 3], [0, 0, 0, 1]])  # 2 mm, 2 mm, one slice before it
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7), np.float32), affine), tmp_path / "image.nii")
    label = load_label(f"{path}::t", [tmp_path / "image.nii"])
    expected = np.zeros((9, 8, 7), bool)
    expected[2:4, 2:4, 1:3] = True
    assert_array_equal(label[0] > 0, expected)


@pytest.mark.parametrize(
    ("directions", "words"),
    [("(1e30,0,0) (0,1,0) (0,0,2)", "more than any scanner can mean"), ("(1,0.3,0) (0,1,0) (0,0,2)", "instead of 90")],
)
def test_a_grid_that_no_image_may_have(tmp_path, directions, words):
    path = slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), "", directions, "domain domain domain")
    assert_refused(path, (), words)


def test_a_damaged_segmentation(tmp_path):
    path = slicer_file(
        tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), "", "(1,0,0) (0,1,0) (0,0,2)", "domain domain domain"
    )
    path.write_bytes(path.read_bytes()[:-4])
    assert_refused(path, (), "damaged or cut short")
    assert_refused(tmp_path / "no.seg.nrrd", (), "no such file")


def test_files_of_2015_have_four_axes_of_space_and_an_origin_elsewhere(tmp_path):
    """As in SlicerRT's test data, where the bladder of such a file fills its contours in RAS to a voxel."""
    voxels = np.random.default_rng(0).integers(0, 2, (4, 3, 2, 2))
    sizes = " ".join(map(str, voxels.shape))
    header = (
        f"NRRD0004\ntype: unsigned char\ndimension: 4\nspace dimension: 4\nsizes: {sizes}\n"
        "space directions: (-0.5,0,0,0) (0,-0.5,0,0) (0,0,2.5,0) (0,0,0,1)\nkinds: domain domain domain domain\n"
        "encoding: raw\nspace origin: (250,240,-122.5,0)\n"
        "Segment0_Extent:=223 226 199 201 -2 -1\nSegment0_ID:=bladder\nSegment0_Name:=Bladder\n"
        "Segment1_Extent:=224 225 199 201 -2 -1\nSegment1_ID:=ptv\nSegment1_Name:=PTV\n"
        "Segmentation_Extent:=223 226 199 201 -2 -1\n\n"
    )
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(header.encode() + voxels.astype(np.uint8).tobytes(order="F"))
    bladder, ptv = load_label(f"{path}::bladder"), load_label(f"{path}::PTV")
    assert_array_equal(bladder[0] > 0, voxels[..., 0] > 0)
    assert_array_equal(ptv[0, 1:3] > 0, voxels[1:3, ..., 1] > 0)
    assert ptv[0, [0, 3]].sum() == 0
    first = [250 - 0.5 * 223, 240 - 0.5 * 199, -122.5 - 2.5 * 2]  # RAS
    assert_allclose(
        bladder.affine, [[-0.5, 0, 0, first[0]], [0, -0.5, 0, first[1]], [0, 0, 2.5, first[2]], [0, 0, 0, 1]]
    )


AXES = "(1,0,0) (0,1,0) (0,0,2)"
DOMAINS = "domain domain domain"


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior"])
def test_spaces_other_than_lps(tmp_path, space):
    path = slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), "Segment0_ID:=a\n", AXES, DOMAINS)
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    left = -1 if space.startswith("left") else 1
    assert_allclose(
        load_label(path).affine, np.array([[left, 0, 0, -3 * left], [0, 1, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])
    )


def test_a_file_that_does_not_say_where_it_is(tmp_path):
    path = slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), "Segment0_ID:=a\n", AXES, DOMAINS)
    for space in (b"", b"space: scanner-xyz\n"):
        other = tmp_path / "other.seg.nrrd"
        other.write_bytes(
            path.read_bytes().replace(b"space: left-posterior-superior\n", space or b"space dimension: 3\n")
        )
        assert_refused(other, (), "does not say where it is in the patient", "Save it again from 3D Slicer")


def test_segments_in_files_with_another_ending_and_axis_of_layers(tmp_path):
    """Slicer can save as .nrrd and .nhdr, and SimpleITK calls the axis of layers a vector."""
    voxels = np.random.default_rng(0).integers(0, 2, (2, 5, 4, 3))
    fields = "Segment0_Name:=Kn\u00f6chel\nSegment1_Name:=cyst\nSegment1_Layer:=0\nSegment0_Layer:=1\n"
    directions, kinds = f"none {AXES}", "vector domain domain domain"
    path = slicer_file(tmp_path / "a.nrrd", voxels, fields, directions, kinds)
    assert_array_equal(load_label(f"{path}::cyst")[0] > 0, voxels[0] > 0)
    assert_array_equal(load_label(f"{path}::kn\u00f6chel")[0] > 0, voxels[1] > 0)
    whole = path.read_bytes()
    start = whole.index(b"\n\n") + 2
    (tmp_path / "a.raw").write_bytes(whole[start:])
    (tmp_path / "b.nhdr").write_bytes(whole[: start - 1] + b"data file: a.raw\n")
    assert_array_equal(load_label(f"{tmp_path / 'b.nhdr'}::cyst")[0] > 0, voxels[0] > 0)


def test_voxels_outside_of_the_extent_are_told(tmp_path):
    fields = "Segment0_Name:=t\nSegment0_LabelValue:=1\nSegment0_Extent:=0 1 0 1 0 0\n"
    label = load_label(slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), fields, AXES, DOMAINS))
    assert int(label.sum()) == 4
    assert label.meta["notes"] == ["8 voxels of segment t outside of its extent left out, as in 3D Slicer"]


def test_segments_that_cannot_be_told_apart(tmp_path):
    fields = "Segment0_Name:=a\nSegment1_Name:=b\n"
    path = slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), fields, AXES, DOMAINS)
    assert_refused(f"{path}::a", (), "does not say which voxels are segment 'a'")
    fields = "Segment0_Name:=a\nSegment0_LabelValue:=1\nSegment0_Layer:=2\n"
    path = slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), fields, AXES, DOMAINS)
    assert_refused(f"{path}::a", (), "does not say which voxels are segment 'a'")


def test_a_segmentation_outside_of_its_image(tmp_path):
    fields = "Segment0_Name:=t\nSegment0_LabelValue:=1\n"
    path = slicer_file(tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), fields, AXES, DOMAINS)
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7), np.float32), np.diag([-1.0, -1, 2, 1])), tmp_path / "image.nii")
    assert_refused(path, [tmp_path / "image.nii"], "lies outside of the image", "none of its 12 voxels inside")


def test_values_of_a_file_without_segments(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4, (5, 4, 3))
    path = slicer_file(tmp_path / "a.seg.nrrd", voxels, "", AXES, DOMAINS)
    assert_array_equal(load_label(f"{path}::3")[0] > 0, voxels == 3)


def test_a_segment_that_was_never_painted_is_an_empty_mask_on_the_image():
    """3D Slicer stores one voxel at the origin; the image's geometry is among the conversion's parameters."""
    path, image = ODD / "slicer_never_painted.seg.nrrd", ODD / "axial_img.nii.gz"
    expected = nib.load(image)
    for reference_images in ([image], []):
        label = load_label(path, reference_images)
        assert label.shape[1:] == expected.shape
        assert not label.any()
        np.testing.assert_allclose(label.affine, expected.affine, atol=1e-5)
        assert label.meta["notes"] == ["segment GTV was never painted: taken as empty"]


def test_a_segment_that_was_never_painted_without_its_image(tmp_path):
    path = tmp_path / "m.seg.nrrd"
    content = (ODD / "slicer_never_painted.seg.nrrd").read_bytes()
    path.write_bytes(content.replace(b"Reference image geometry", b"Reference image geometrY"))
    with pytest.raises(CaseError, match="the label is empty, and only its image could say how large"):
        load_label(path)
    assert load_label(path, [ODD / "axial_img.nii.gz"]).shape[1:] == nib.load(ODD / "axial_img.nii.gz").shape


def test_a_never_painted_segment_beside_a_painted_one(tmp_path):
    voxels = np.zeros((6, 5, 4), np.uint8)
    voxels[2, 3, 1] = 1
    image = sitk.GetImageFromArray(voxels.T)
    for number, (name, extent) in enumerate((("a", "0 5 0 4 0 3"), ("b", "0 -1 0 -1 0 -1"))):
        for key, value in {"ID": name, "Name": name, "Layer": "0", "LabelValue": f"{number + 1}"}.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
        image.SetMetaData(f"Segment{number}_Extent", extent)
    sitk.WriteImage(image, str(tmp_path / "m.seg.nrrd"))
    assert [int(load_label(f"{tmp_path / 'm.seg.nrrd'}::{name}").sum()) for name in "ab"] == [1, 0]
