"""Labels as masks: contours placed by geometry, segments by name, values by number; half a voxel stays half a voxel."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import slicerio
from dicom.making import (
    COLUMNS,
    ORIGIN,
    ROWS,
    SLICES,
    SPACING,
    STEP,
    affine_lps,
    axes,
    ras,
    rtstruct,
    save,
    slices,
    uid,
)
from matplotlib.path import Path as Polygon
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.sr.codedict import codes

from differseg_med.cohort.table import read_cohort, write_cohort
from differseg_med.errors import CaseError
from differseg_med.transforms.labels import LoadLabeld, load_label
from differseg_med.transforms.loading import LoadVolumesd

SHARED = Path(__file__).parents[3] / "shared" / "data"
OBLIQUE = (20, -10, 5)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "image", slices(angles=OBLIQUE))


def contour(points: np.ndarray, number: float, angles=OBLIQUE) -> np.ndarray:
    """LPS points (N, 3) of in-plane (column, row) indices on slice ``number``."""
    index = np.column_stack([points, np.full(len(points), number), np.ones(len(points))])
    return (index @ affine_lps(angles).T)[:, :3]


def drawn(tmp_path: Path, regions: dict, **settings) -> Path:
    return next(save(tmp_path / "rt", [rtstruct(regions, **settings)]).iterdir())


def refused(cell, drawn_on=(), *words: str) -> str:
    with pytest.raises(CaseError) as caught:
        load_label(cell, drawn_on)
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    return text


def star(radius: float, center=(19.3, 17.6), corners: int = 11) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False)
    length = np.where(np.arange(2 * corners) % 2, radius, radius / 2)
    return np.asarray(center) + length[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def filled(points: np.ndarray) -> np.ndarray:
    """Pixels (column, row) whose center matplotlib finds inside."""
    grid = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="ij"), -1).reshape(-1, 2)
    return Polygon(points).contains_points(grid).reshape(COLUMNS, ROWS)


@pytest.mark.parametrize("angles", [(0, 0, 0), OBLIQUE, (90, 70, -20)])
def test_contours_fill_the_voxels_whose_centers_they_hold(tmp_path, angles):
    image = save(tmp_path / "image", slices(angles=angles))
    path = drawn(tmp_path, {"GTV": [contour(star(9 + k), k, angles) for k in (1, 2, 3)]})
    label = load_label(f"{path}::GTV", [image])
    expected = np.zeros((COLUMNS, ROWS, SLICES), bool)
    for k in (1, 2, 3):
        expected[:, :, k] = filled(star(9 + k))
    assert_array_equal(label[0] > 0, expected)
    assert_allclose(label.affine, ras(affine_lps(angles)), atol=1e-6)


def test_holes_and_islands_by_the_even_odd_rule(tmp_path, image):
    rings = [contour(star(radius), 2) for radius in (15, 10, 4)]
    label = load_label(f"{drawn(tmp_path, {'ring': rings})}::ring", [image])
    expected = filled(star(15)) ^ filled(star(10)) ^ filled(star(4))
    assert_array_equal(label[0, :, :, 2] > 0, expected)
    assert label[0, :, :, [0, 1, 3, 4, 5]].sum() == 0


def test_a_keyhole_contour_leaves_its_hole(tmp_path, image):
    outer = np.array([[3.5, 3.5], [30.5, 3.5], [30.5, 30.5], [3.5, 30.5], [3.5, 3.5]])
    inner = np.array([[10.5, 10.5], [10.5, 20.5], [20.5, 20.5], [20.5, 10.5], [10.5, 10.5]])
    label = load_label(f"{drawn(tmp_path, {'k': [contour(np.vstack([outer, inner]), 1)]})}::k", [image])
    assert int(label.sum()) == 27 * 27 - 10 * 10


def test_regions_by_name_in_any_case_by_number_and_several(tmp_path, image):
    path = drawn(tmp_path, {"GTV, left": [contour(star(6, (10.2, 10.3)), 1)], "PTV": [contour(star(6, (28, 25)), 1)]})
    left, right = (int(load_label(f"{path}::{name}", [image]).sum()) for name in ("gtv, LEFT", "2"))
    assert left == int(filled(star(6, (10.2, 10.3))).sum())
    assert int(load_label(f"{path}::PTV,1", [image]).sum()) == left + right
    refused(f"{path}::GVT", [image], "no region 'GVT'", "GTV, left (1), PTV (2)")
    refused(path, [image], "there are 2 regions here", f"{path.name}::GTV, left")


def test_contours_between_slices_or_off_the_plane_are_refused(tmp_path, image):
    between = drawn(tmp_path / "a", {"x": [contour(star(9), 1.5)]})
    refused(f"{between}::x", [image], "lie between the slices", "1.25 mm from the next slice", "2.50 mm apart")
    tilted = contour(star(9), 2) + axes(OBLIQUE)[2] * np.linspace(0, 3, 22)[:, None]
    refused(f"{drawn(tmp_path / 'b', {'x': [tilted]})}::x", [image], "not in the planes", "cross 1.2 slices")


def test_contours_of_thicker_slices_are_refused(tmp_path):
    thin = save(tmp_path / "thin", slices(np.zeros((16, ROWS, COLUMNS), np.int16)))
    path = drawn(tmp_path, {"x": [contour(star(9), k, (0, 0, 0)) for k in (0, 3, 6, 9)]})
    refused(f"{path}::x", [thin], "skip slices", "every 3th slice")


def test_contours_out_of_the_image(tmp_path, image):
    far = [contour(star(9), k) for k in (1, 2)] + [contour(star(9, (200, 200)), 3), contour(star(9), 30)]
    label = load_label(f"{drawn(tmp_path / 'a', {'x': far})}::x", [image])
    assert "2 of 4 contours" in label.meta["notes"][0]
    refused(f"{drawn(tmp_path / 'b', {'x': far[3:]})}::x", [image], "fits none", "lies outside")


def test_another_frame_of_reference_is_refused(tmp_path, image):
    path = drawn(tmp_path, {"x": [contour(star(9), 1)]}, frame=uid("elsewhere"))
    refused(f"{path}::x", [image], "fits none of the case's images", "another frame of reference")


def test_the_image_it_was_drawn_on_decides(tmp_path, image):
    """Planes that fit two images: the one that the RTSTRUCT refers to, else the first in the table."""
    fine = slices(angles=OBLIQUE, series="fine", spacing=(1.2, 0.6))
    other = save(tmp_path / "fine", fine)
    shape = (COLUMNS, ROWS, SLICES)
    plain = drawn(tmp_path / "a", {"x": [contour(star(9), 1)]})
    assert (
        load_label(f"{plain}::x", [image, other]).affine[0, 0] != load_label(f"{plain}::x", [other, image]).affine[0, 0]
    )
    named = drawn(tmp_path / "b", {"x": [contour(star(9), 1)]}, referenced=uid("series", "fine"))
    first, second = (load_label(f"{named}::x", cells) for cells in ([image, other], [other, image]))
    assert_array_equal(first.affine, second.affine)
    assert first.shape == (1, *shape)
    assert_allclose(np.linalg.norm(first.affine[:3, 0]), 0.6, rtol=1e-5)
    refused(f"{plain}::x", [], "needs the image")


def test_withheld_images_keep_the_grid_of_the_label(tmp_path, image):
    path = drawn(tmp_path, {"x": [contour(star(9), 1)]})
    coarse = save(tmp_path / "pet", slices(angles=OBLIQUE, series="coarse", spacing=(4.0, 4.0)))
    table = tmp_path / "cohort.csv"
    rows = [f"c,{image.relative_to(tmp_path)},{coarse.relative_to(tmp_path)},{path.relative_to(tmp_path)}::x"]
    table.write_text("\n".join(["case_id,ct,pet,label", *rows]))
    cohort = read_cohort(table, ["ct", "pet"])
    sums = []
    for cases in (cohort, cohort.withhold(["ct"])):
        item = LoadVolumesd(["ct", "pet"])(cases.cases[0].as_item())
        label = LoadLabeld("label", ["ct", "pet"])(item)["label"]
        assert label.shape == (1, COLUMNS, ROWS, SLICES)
        sums.append(int(label.sum()))
    assert sums[0] == sums[1] == int(filled(star(9)).sum())
    write_cohort(tmp_path / "sub" / "again.csv", ["ct", "pet"], cohort.cases)
    again = (tmp_path / "sub" / "again.csv").read_text()
    assert f"../{path.relative_to(tmp_path)}::x" in again


def seg(folder: Path, kind: str, pixels: np.ndarray, move: np.ndarray | None = None, **settings) -> Path:
    """A SEG of segments 'GTV' (and 'node') on the slices of `image`, moved by mm (LPS)."""
    source = slices(angles=OBLIQUE)
    for dataset in source:
        dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber, dataset.SeriesNumber = "", 1
        if move is not None:
            dataset.ImagePositionPatient = [float(f"{v:.10g}") for v in np.array(dataset.ImagePositionPatient) + move]
    manual = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    names = ["GTV", "node"][: pixels.shape[-1] if pixels.ndim == 4 else 1]
    described = [
        hd.seg.SegmentDescription(n, name, codes.SCT.Organ, codes.SCT.Liver, manual) for n, name in enumerate(names, 1)
    ]
    made = hd.seg.Segmentation(
        source, pixels, kind, described, uid("s"), 1, uid("i"), 1, "maker", "model", "1", "serial", **settings
    )
    folder.mkdir(exist_ok=True)
    made.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def blob(seed: int = 0) -> np.ndarray:
    """A random mask (slices, rows, columns), empty outside slices 2 and 4."""
    mask = np.random.default_rng(seed).random((SLICES, ROWS, COLUMNS)) < 0.3
    mask[[0, 1, 3, 5]] = False
    return mask


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("omit", [True, False])
def test_seg_by_name_and_number_with_empty_slices_left_out(tmp_path, image, kind, omit):
    first, second = blob(0), blob(1) & ~blob(0)
    path = seg(tmp_path, kind, np.stack([first, second], -1).astype(np.uint8), omit_empty_frames=omit)
    for selector, mask in (("gtv", first), ("2", second), ("GTV,node", first | second)):
        label = load_label(f"{path}::{selector}", [image])
        assert_array_equal(label[0] > 0, mask.transpose(2, 1, 0))
        assert_allclose(label.affine, ras(affine_lps(OBLIQUE)), atol=1e-5)
    refused(path, [image], "there are 2 segments here", "GTV (1), node (2)")


def test_a_seg_that_declares_more_than_it_holds(tmp_path, image):
    path = seg(tmp_path, "BINARY", blob().astype(np.uint8))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 99999999
    dataset.save_as(path)
    refused(path, [image], "does not describe each of its frames")


def test_fractional_seg_is_cut_at_one_half(tmp_path, image):
    share = np.random.default_rng(0).random((SLICES, ROWS, COLUMNS)).astype(np.float32)
    path = seg(tmp_path, "FRACTIONAL", share, fractional_type="PROBABILITY")
    label = load_label(path, [image])
    stored = np.rint(share.transpose(2, 1, 0) * 255) / 255  # a byte per voxel
    assert_array_equal(label[0] > 0, stored >= 0.5)
    assert label.meta["notes"] == ["fractional segment, cut at 0.5"]


def test_half_a_pixel_off_stays_half_a_pixel_off(tmp_path, image):
    move = axes(OBLIQUE)[0] * SPACING[1] / 2
    label = load_label(seg(tmp_path, "BINARY", blob().astype(np.uint8), move), [image])
    shift = label.affine[:3, 3].numpy() - ras(affine_lps(OBLIQUE))[:3, 3]
    down = axes(OBLIQUE)[2] * STEP * 2  # the SEG begins with its first slice that is not empty
    assert_allclose(np.linalg.norm(shift - ras(move) - ras(down)), 0, atol=1e-4)
    assert label.shape == (1, COLUMNS, ROWS, 3)
    assert int(label.sum()) == int(blob().sum())


def test_a_whole_pixel_off_moves_the_mask(tmp_path, image):
    move = axes(OBLIQUE)[0] * SPACING[1] * 2
    label = load_label(seg(tmp_path, "BINARY", blob().astype(np.uint8), move), [image])
    expected = np.zeros((COLUMNS, ROWS, SLICES), bool)
    expected[2:] = blob().transpose(2, 1, 0)[:-2]
    assert_array_equal(label[0] > 0, expected)
    assert "voxels of the label lie outside the image" in label.meta["notes"][0]


def nifti(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values.astype(np.uint8), np.diag([1.0, 2, 3, 1])), path)
    return path


def test_chosen_values_of_a_mask_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 5, (6, 5, 4))
    path = nifti(tmp_path / "m.nii.gz", values)
    assert_array_equal(load_label(f"{path}::1,3")[0] > 0, np.isin(values, (1, 3)))
    refused(path, (), "the label has several values", "0, 1, 2, 3, 4", "m.nii.gz::1")
    refused(f"{path}::9", (), "none of these values")
    refused(f"{path}::tumour", (), "no numbers")
    assert_array_equal(load_label(nifti(tmp_path / "255.nii", (values > 2) * 255))[0] > 0, values > 2)


SLICER = SHARED / "slicer_seg_nrrd"
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


def test_a_damaged_segmentation(tmp_path):
    path = slicer_file(
        tmp_path / "a.seg.nrrd", np.ones((3, 2, 2)), "", "(1,0,0) (0,1,0) (0,0,2)", "domain domain domain"
    )
    path.write_bytes(path.read_bytes()[:-4])
    refused(path, (), "damaged or cut short")
    refused(tmp_path / "no.seg.nrrd", (), "no such file")


def test_an_image_is_no_label(image):
    refused(image, [image], "this is no label", "one RTSTRUCT or DICOM SEG", "found CT")


def test_a_truncated_rtstruct(tmp_path, image):
    path = drawn(tmp_path, {"GTV": [contour(star(9), 1)]})
    dataset = pydicom.dcmread(path)
    del dataset.ROIContourSequence
    dataset.save_as(path)
    refused(f"{path}::GTV", [image], "no closed contour")


def test_the_start_of_the_series(tmp_path, image):
    assert_allclose(
        load_label(f"{drawn(tmp_path, {'x': [contour(star(9), 0)]})}::x", [image]).affine[:3, 3], ras(ORIGIN)
    )


def test_a_contour_twice_cuts_no_hole(tmp_path, image):
    path = drawn(tmp_path, {"x": [contour(star(9), 1), contour(star(9), 1)]})
    label = load_label(f"{path}::x", [image])
    assert_array_equal(label[0, :, :, 1] > 0, filled(star(9)))
    assert "1 points, lines, specks or copies" in label.meta["notes"][0]
