"""Segmentations for 3D Slicer: exact in every orientation, described, reproducible, and as Slicer writes them."""

from __future__ import annotations

import gzip
import itertools
import time
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from pydicom.sr.coding import Code
from scipy.spatial.transform import Rotation
from support.series import by_row, positions
from support.synthetic import ORIENTATIONS, Volume, stored_as

from differseg_med.errors import CaseError
from differseg_med.export import seg_nrrd
from differseg_med.export.seg_nrrd import save_nrrd_volume, save_seg_nrrd
from differseg_med.export.segment import SegmentInfo

MASK = (np.random.default_rng(0).random((7, 6, 5)) > 0.6).astype(np.uint8)
LESION = SegmentInfo(
    "MS lesion",
    color=(144, 238, 144),
    property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    property_type=Code("4147007", "SCT", "Mass"),
    anatomic_region=Code("12738006", "SCT", "Brain"),
    anatomic_region_modifier=Code("7771000", "SCT", "Left"),
)
SLICER = Path(__file__).parents[3] / "shared" / "data" / "slicer_seg_nrrd"


def affine_of(spacing=(0.7, 1.1, 3.3), angles=(0, 0, 0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = (-123.4, 56.7, -890.1)
    return affine


def read_by_itk(path):
    """World positions (RAS) of the foreground as ITK sees them."""
    image = sitk.ReadImage(str(path))
    points = [image.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in np.argwhere(sitk.GetArrayFromImage(image))]
    return by_row(np.array(points) * (-1, -1, 1))


def read_by_slicerio(path):
    """World positions (RAS) of the foreground as Slicer's library sees them, within the segment's extent."""
    read = slicerio.read_segmentation(str(path))
    i0, i1, j0, j1, k0, k1 = read["segments"][0]["extent"]
    inside = np.zeros_like(read["voxels"])
    inside[i0 : i1 + 1, j0 : j1 + 1, k0 : k1 + 1] = 1
    return by_row(positions(read["voxels"] * inside, read["ijkToLPS"]) * (-1, -1, 1))


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -8, 20)], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_orientations_in_slicerio_and_itk(codes, angles, tmp_path):
    affine = affine_of(angles=angles)
    stored = stored_as(Volume(MASK, affine), codes)
    path = save_seg_nrrd(stored.data, stored.affine, tmp_path / "mask.seg.nrrd", LESION)
    expected = positions(MASK, affine)
    np.testing.assert_allclose(read_by_slicerio(path), expected, atol=1e-3)
    np.testing.assert_allclose(read_by_itk(path), expected, atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice(axis, tmp_path):
    mask = MASK.take([2], axis=axis)
    path = save_seg_nrrd(mask, affine_of(), tmp_path / "mask.seg.nrrd", LESION)
    np.testing.assert_allclose(read_by_slicerio(path), positions(mask, affine_of()), atol=1e-3)


def test_the_segment_is_described(tmp_path):
    read = slicerio.read_segmentation(str(save_seg_nrrd(MASK, affine_of(), tmp_path / "m.seg.nrrd", LESION)))
    (segment,) = read["segments"]
    assert (segment["name"], segment["id"], segment["labelValue"], segment["layer"]) == ("MS lesion", "ms_lesion", 1, 0)
    np.testing.assert_allclose(segment["color"], [144 / 255, 238 / 255, 144 / 255], atol=1e-6)
    assert segment["extent"] == [0, 6, 0, 5, 0, 4]
    terminology = segment["terminology"]
    assert terminology["category"] == ["SCT", "49755003", "Morphologically Abnormal Structure"]
    assert terminology["type"] == ["SCT", "4147007", "Mass"]
    assert terminology["anatomicRegion"] == ["SCT", "12738006", "Brain"]
    assert terminology["anatomicRegionModifier"] == ["SCT", "7771000", "Left"]
    assert read["voxels"].dtype == np.uint8


def test_without_codes_there_is_no_terminology(tmp_path):
    read = slicerio.read_segmentation(
        str(save_seg_nrrd(MASK, affine_of(), tmp_path / "m.seg.nrrd", SegmentInfo("lesion")))
    )
    assert "terminology" not in read["segments"][0]
    assert read["segments"][0]["name"] == "lesion"


def test_an_empty_mask_keeps_its_size(tmp_path):
    """One voxel would mean "no data" to Slicer."""
    path = save_seg_nrrd(np.zeros((7, 6, 5), bool), affine_of(), tmp_path / "mask.seg.nrrd", LESION)
    read = slicerio.read_segmentation(str(path))
    assert read["voxels"].shape == (7, 6, 5)
    assert not read["voxels"].any()
    assert len(read["segments"]) == 1


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first = save_seg_nrrd(MASK, affine_of(), tmp_path / "a.seg.nrrd", LESION).read_bytes()
    probability = save_nrrd_volume(MASK * np.float32(0.3), affine_of(), tmp_path / "a.nrrd").read_bytes()
    time.sleep(1.1)  # a time stamp in seconds would show
    assert save_seg_nrrd(MASK, affine_of(), tmp_path / "b" / "x.seg.nrrd", LESION).read_bytes() == first
    assert save_nrrd_volume(MASK * np.float32(0.3), affine_of(), tmp_path / "b" / "x.nrrd").read_bytes() == probability
    assert gzip.decompress(first.partition(b"\n\n")[2]) == MASK.tobytes(order="F")


SEGMENT_FIELDS = (
    "Color",
    "ColorAutoGenerated",
    "Extent",
    "ID",
    "LabelValue",
    "Layer",
    "Name",
    "NameAutoGenerated",
    "Tags",
)


@pytest.mark.skipif(not SLICER.is_dir(), reason="needs ../shared/data/slicer_seg_nrrd, beside the project")
def test_the_header_has_the_fields_of_slicers_own(tmp_path):
    """Field by field against a file that 3D Slicer wrote; docs/exports.md lists what differs and why."""
    voxels, theirs = nrrd.read(str(SLICER / "Segmentation.seg.nrrd"))
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = theirs["space directions"].T, theirs["space origin"]
    path = save_seg_nrrd(voxels == 1, np.diag([-1, -1, 1, 1]) @ lps, tmp_path / "ours.seg.nrrd", LESION)
    ours = nrrd.read_header(str(path))
    for field in ("dimension", "space", "kinds", "encoding"):
        assert ours[field] == theirs[field], field
    for field in ("sizes", "space directions", "space origin"):
        np.testing.assert_array_equal(ours[field], theirs[field], field)
    for field in ("Segmentation_MasterRepresentation", "Segmentation_ReferenceImageExtentOffset"):
        assert ours[field] == theirs[field], field
    assert {field for field in ours if field.startswith("Segment0_")} == {f"Segment0_{f}" for f in SEGMENT_FIELDS}
    assert {field for field in theirs if field.startswith("Segment0_")} == {f"Segment0_{f}" for f in SEGMENT_FIELDS}
    assert set(theirs) - {f for f in theirs if f.startswith("Segment")} <= set(ours)
    # The differences that docs/exports.md lists.
    assert (ours["type"], theirs["type"]) == ("uint8", "unsigned char")
    assert set(theirs) - set(ours) - {f for f in theirs if f.startswith("Segment") and f[7].isdigit()} == {
        "Segmentation_ConversionParameters"
    }
    assert ours["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"


def test_volumes_keep_places_and_values(tmp_path):
    rng = np.random.default_rng(0)
    for volume, dtype in ((rng.random((4, 3, 2)), np.float32), (rng.integers(-1000, 3000, (4, 3, 2)), np.int16)):
        affine = affine_of(angles=(12, -8, 20))
        image = sitk.ReadImage(str(save_nrrd_volume(volume, affine, tmp_path / "v.nrrd")))
        array = sitk.GetArrayFromImage(image)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array.T, volume.astype(dtype))
        for index in itertools.product(range(4), range(3), range(2)):
            point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
            np.testing.assert_allclose(point, (affine @ (*index, 1))[:3], atol=1e-6)


def test_a_volume_that_differs_never_gets_the_name(tmp_path, monkeypatch):
    path = save_nrrd_volume(MASK, affine_of(), tmp_path / "v.nrrd")
    before = path.read_bytes()
    write_image = sitk.WriteImage
    monkeypatch.setattr(seg_nrrd.sitk, "WriteImage", lambda image, *a, **k: write_image(image + 1, *a, **k))
    with pytest.raises(CaseError, match="voxels differ"):
        save_nrrd_volume(MASK, affine_of(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["v.nrrd"]


write = slicerio.write_segmentation


def spoil_voxels(file, document, **_):
    write(file, {**document, "voxels": 1 - document["voxels"]})


def spoil_place(file, document, **_):
    moved = np.array(document["ijkToLPS"])
    moved[0, 3] += 0.01
    write(file, {**document, "ijkToLPS": moved})


def spoil_extent(file, document, **_):
    write(file, {**document, "segments": [{**document["segments"][0], "extent": [0, 3, 0, 5, 0, 4]}]})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(spoil_voxels, "voxels differ"), (spoil_place, "affine differs"), (spoil_extent, "described differently")],
)
def test_a_file_that_differs_never_gets_the_name(spoil, words, tmp_path, monkeypatch):
    path = save_seg_nrrd(MASK, affine_of(), tmp_path / "mask.seg.nrrd", LESION)
    before = path.read_bytes()
    monkeypatch.setattr(seg_nrrd.slicerio, "write_segmentation", spoil)
    with pytest.raises(CaseError, match=words):
        save_seg_nrrd(MASK, affine_of(), path, LESION)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mask.seg.nrrd"]
