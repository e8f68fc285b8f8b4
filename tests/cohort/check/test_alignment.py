"""The alignment check on bodies made here and on sarcoma patients; its rates: scripts/measure_alignment.py."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.eulerangles import euler2mat
from support.bodies import AFFINE, SHAPE, STS, body, needs_sts
from support.synthetic import affine_of

from differseg_med.cohort.check.alignment import check_alignment
from differseg_med.geometry import Grid, affine_from_itk
from differseg_med.io.itk import as_image, as_voxels, empty_image
from differseg_med.metrics.similarity import Alignment, measure_alignment

MS = STS.parent / "ms_mni"
KINDS = {"ct": "ct", "pet": "pet", "t1": "mr"}


def turned(degrees):
    affine = AFFINE.copy()
    affine[:3, :3] = euler2mat(np.radians(degrees)) @ affine[:3, :3]
    return affine


def test_an_image_survives_the_way_to_simpleitk_and_back():
    affine = affine_of(angles=(20, -10, 5))
    voxels = np.random.default_rng(0).normal(size=(5, 4, 3))
    image = as_image(voxels, affine)
    assert image.GetSize() == (5, 4, 3)
    assert image.GetPixel(4, 1, 2) == voxels[4, 1, 2]
    back, grid = as_voxels(image)
    np.testing.assert_array_equal(back, voxels)
    np.testing.assert_allclose(grid.affine, affine, atol=1e-9)
    empty = empty_image(Grid((5, 4, 3), affine))
    found = affine_from_itk(empty.GetSpacing(), empty.GetOrigin(), empty.GetDirection())
    np.testing.assert_allclose(found, affine, atol=1e-9)


@pytest.mark.parametrize("offset", [(9, 0, 0), (-9, 0, 0), (0, 12, 0), (0, 0, -9), (6, -6, 6)])
def test_the_shift_that_would_line_images_up_is_found(offset):
    # The content of the second image lies at +offset: it has to be moved back.
    found = measure_alignment(body(), body(offset=offset, other=True))
    np.testing.assert_allclose(found.shift_mm, np.negative(offset), atol=0.4)
    assert found.off
    assert found.there > found.here * 1.2
    assert found.edges_there > found.edges_here * 1.2


def test_the_shift_is_in_world_axes_whatever_the_grids():
    found = measure_alignment(body(turned(30)), body(offset=(9, 0, 0), other=True))
    np.testing.assert_allclose(found.shift_mm, (-9, 0, 0), atol=0.5)
    assert found.off


def test_the_order_of_the_images_turns_the_shift_round():
    coarse = affine_of((5.0, 5.0, 5.0), (-60.0, -50.0, -60.0))
    pet, ct = body(coarse, (24, 20, 24), other=True), body(offset=(9, 0, 0))
    one, other = measure_alignment(pet, ct), measure_alignment(ct, pet)
    np.testing.assert_allclose(one.shift_mm, np.negative(other.shift_mm))
    np.testing.assert_allclose(one.shift_mm, (-9, 0, 0), atol=0.5)


@pytest.mark.parametrize("other", [False, True])
def test_images_that_line_up(other):
    found = measure_alignment(body(), body(other=other))
    np.testing.assert_allclose(found.shift_mm, 0, atol=0.1)
    assert not found.off
    assert found.here == found.there
    assert found.edges_here == found.edges_there


@pytest.mark.parametrize("seed", range(4))
def test_images_without_anything_in_common_are_not_called_shifted(seed):
    noise = as_image(np.random.default_rng(seed).normal(size=SHAPE), AFFINE)
    assert measure_alignment(body(), noise) is None


def test_too_little_overlap_gives_no_figure():
    assert measure_alignment(body(), body(shape=(8, 8, 8))) is None
    (finding,) = check_alignment({"ct": body(), "pet": body(shape=(8, 8, 8))}, "c", kinds=KINDS)
    assert finding.level == "ok"
    assert "too little in common" in finding.text


def test_a_constant_image_gives_no_alarm():
    flat = as_image(np.zeros(SHAPE), AFFINE)
    assert measure_alignment(body(), flat) is None
    assert measure_alignment(flat, flat) is None


def test_what_is_compared_is_the_middle_of_what_both_show():
    # A small image in the corner of a large one: the middle of the large one shows nothing of it.
    large = body(affine_of((2.0, 2.0, 2.5), (-60.0, -50.0, -60.0)), (200, 60, 60))
    found = measure_alignment(large, body(offset=(0, 9, 0), other=True))
    np.testing.assert_allclose(found.shift_mm, (0, -9, 0), atol=0.4)


def test_images_that_share_no_space_are_not_compared():
    assert measure_alignment(body(), body(affine_of((2.0, 2.0, 2.5), (500.0, -50.0, -60.0)))) is None


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        ({"a": "us", "b": "mr"}, "with ultrasound and MR the patient may lie differently, or look unlike"),
        ({"a": "cbct", "b": "ct"}, "with cone-beam CT and CT"),
        ({"a": "ct", "b": "dose"}, "with CT and radiotherapy dose"),
        ({"a": "us", "b": "us"}, "with ultrasound and ultrasound"),
        ({"a": "mr"}, "nothing says what kind of image b is"),
        ({}, "nothing says what kind of image a and b are"),
    ],
)
def test_what_looks_unlike_or_is_not_known_is_not_judged(kinds, why):
    (finding,) = check_alignment({"a": body(), "b": body(offset=(12, 0, 0))}, "c", kinds=kinds)
    assert finding.level == "ok"
    assert f"not compared: {why}" in finding.text
    assert "moved by 12 mm" in finding.text


def test_findings_hold_figures_and_only_judged_pairs_warn():
    images = {"ct": body(), "pet": body(offset=(12, 0, 0), other=True), "t1": body(offset=(12, 0, 0))}
    findings = {
        (f.column, f.text.split(" (")[0].split(" do ")[0]): f for f in check_alignment(images, "c7", kinds=KINDS)
    }
    warned = [f for f in findings.values() if f.level == "warning"]
    assert [f.text.split(":")[0] for f in warned] == ["ct and pet are not registered"]
    assert "moved by 12 mm (-12 right, +0 front, +0 up)" in warned[0].text
    assert warned[0].case == "c7"
    assert warned[0].remedy
    not_judged = next(f for f in findings.values() if f.text.startswith("ct and t1"))
    assert "not compared" in not_judged.text
    assert "moved by 12 mm" in not_judged.text


@pytest.mark.parametrize(
    ("shift", "off"), [((5, 0, 0), True), ((0, 0, -5), True), ((4.9, -4.9, 4.9), False), ((0, 0, 0), False)]
)
def test_five_millimetres_along_an_axis_are_too_much(shift, off):
    assert Alignment(shift, 0.1, 0.2, 0.3, 0.4, 5000).off is off


@needs_sts
@pytest.mark.parametrize("patient", ["STS_010", "STS_041"])
def test_a_shifted_ct_of_a_real_patient_is_caught_and_the_untouched_one_not(patient):
    images = {name: sitk.ReadImage(str(STS / patient / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("ct", "pet")}
    assert [f.level for f in check_alignment(images, kinds=KINDS)] == ["ok"]
    origin = np.array(images["ct"].GetOrigin())
    for millimetres in np.vstack([10 * np.eye(3), -10 * np.eye(3)]):
        images["ct"].SetOrigin((origin + millimetres).tolist())
        (finding,) = check_alignment(images, kinds=KINDS)
        assert finding.level == "warning"
        assert "are not registered" in finding.text


@needs_sts
def test_sequences_of_one_mr_examination_lie_within_half_a_millimetre():
    images = {n: sitk.ReadImage(str(MS / "patient07" / f"{n}.nii.gz")) for n in ("flair", "t1", "t2")}
    for other in ("t1", "t2"):
        np.testing.assert_allclose(measure_alignment(images["flair"], images[other]).shift_mm, 0, atol=0.5)
    x, y, z = images["t1"].GetOrigin()
    images["t1"].SetOrigin((x, y + 10, z))  # LPS: to the back
    np.testing.assert_allclose(measure_alignment(images["flair"], images["t1"]).shift_mm, (0, 10, 0), atol=0.5)
