"""Every modality ends where it belongs in world space; scipy's interpolation at those positions is the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import aff2axcodes
from scipy.ndimage import map_coordinates
from support.synthetic import (
    MODALITIES,
    OBLIQUE,
    Volume,
    affine_of,
    label_volume,
    stored_as,
    tumour_images,
    write_nifti,
)

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.keys import NOTES, REFERENCE
from differseg_med.transforms.grids import (
    AuditGridsd,
    ResampleToGridd,
    SelectReferenced,
    around_gaps,
    crop_to_lattice,
    grid_of,
    original_grid,
    restore_grid,
)
from differseg_med.transforms.loading import LoadVolumesd
from differseg_med.transforms.pipelines import preprocessing

NAMES = ("t1", "ct", "pet")
PIXDIM = (2.0, 2.5, 3.0)


def load(folder: Path, volumes: dict[str, Volume], reference: str = "t1") -> dict:
    """A case as it comes to the audit."""
    paths = {name: str(write_nifti(folder / f"{name}.nii.gz", v)) for name, v in volumes.items()}
    return LoadVolumesd((*NAMES, "label"))(SelectReferenced(NAMES, reference)({"case_id": "x", **paths}))


def resample(folder: Path, volumes: dict[str, Volume], pixdim=PIXDIM) -> dict:
    return ResampleToGridd(NAMES, "label", pixdim)(load(folder, volumes))


def expected_at(volume: Volume, affine: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values of ``volume`` by scipy at every voxel of a grid, and which of them are within its field of view."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    where = apply_affine(np.linalg.inv(volume.affine), apply_affine(affine, index))
    inside = ((where > -0.5) & (where < np.array(volume.data.shape) - 0.5)).all(axis=-1)
    return map_coordinates(volume.data, np.moveaxis(where, -1, 0), order=1, mode="nearest"), inside


@pytest.mark.parametrize("angles", [(0, 0, 0), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("pixdim", [None, PIXDIM], ids=["own", "pixdim"])
@pytest.mark.parametrize(("codes", "pet_codes"), [("LPS", "LPS"), ("PIR", "RAS"), ("SAL", "IRP")])
def test_every_modality_is_where_scipy_finds_it(tmp_path, codes, pet_codes, angles, pixdim):
    images = tumour_images(angles)
    stored = {name: stored_as(v, pet_codes if name == "pet" else codes) for name, v in images.items()}
    done = resample(tmp_path, stored, pixdim)
    affine, shape = done["t1"].affine.numpy(), done["t1"].shape[1:]
    assert aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(voxel_sizes(affine), pixdim or voxel_sizes(images["t1"].affine), atol=1e-4)
    for name in NAMES:
        np.testing.assert_allclose(done[name].affine, affine, atol=1e-4)
        values, inside = expected_at(images[name], affine, shape)
        found = done[name][0].numpy()
        np.testing.assert_array_equal(np.isfinite(found), inside | (name == "t1"))
        np.testing.assert_allclose(found[inside], values[inside], atol=2e-3 * np.ptp(images[name].data))
    target, _ = expected_at(images["label"], affine, shape)
    clear = np.abs(target - 0.5) > 0.01
    np.testing.assert_array_equal(done["label"][0].numpy()[clear], target[clear] > 0.5)


def test_the_networks_grid_covers_the_reference(tmp_path):
    images = tumour_images()
    done = resample(tmp_path, {"t1": images["t1"]})
    extent = np.array(done["t1"].shape[1:]) * PIXDIM
    original = np.array(images["t1"].data.shape) * voxel_sizes(images["t1"].affine)
    assert (np.abs(extent - original) <= np.array(PIXDIM) + voxel_sizes(images["t1"].affine)).all()


def test_a_point_source_is_found_again(tmp_path):
    images = tumour_images()
    pet = np.zeros_like(images["pet"].data)
    pet[6, 2, 7] = 100.0
    done = resample(tmp_path, {"t1": images["t1"], "pet": Volume(pet, images["pet"].affine)}, None)
    found = np.nan_to_num(done["pet"][0].numpy())
    points = apply_affine(done["pet"].affine.numpy(), np.argwhere(found))
    center = np.average(points, axis=0, weights=found[found != 0])
    np.testing.assert_allclose(center, images["pet"].world(np.array([[6, 2, 7]]))[0], atol=0.8)


def test_outside_a_field_of_view_there_is_no_data(tmp_path):
    images = tumour_images()
    half = {**images, "ct": Volume(images["ct"].data[:, :, :6], images["ct"].affine)}
    paths = {name: str(write_nifti(tmp_path / f"{name}.nii.gz", v)) for name, v in half.items() if name != "label"}
    ct = preprocessing(MODALITIES, "t1", None)({"case_id": "x", **paths})["image"][1]
    assert bool((ct[:, :, 6:] == 0).all())
    assert bool((ct[:, :, :6] != 0).all())


def test_the_original_grid_is_remembered(tmp_path):
    stored = stored_as(tumour_images()["t1"], "PIR")
    done = preprocessing(MODALITIES, "t1", PIXDIM)({"t1": str(write_nifti(tmp_path / "t1.nii.gz", stored))})
    grid = original_grid(done["image"])
    assert grid.shape == stored.data.shape
    np.testing.assert_allclose(grid.affine, stored.affine, atol=1e-4)
    assert done["image"].shape[0] == 3
    assert not bool(done["image"][1:].any())


def test_images_in_different_places_are_refused(tmp_path):
    images = tumour_images()
    far = images["pet"].affine.copy()
    far[0, 3] += 500
    case = load(tmp_path, {**images, "pet": Volume(images["pet"].data, far)})
    with pytest.raises(CaseError, match=r"case x, file .*/pet.nii.gz: pet: does not overlap t1: .* mm apart"):
        AuditGridsd(NAMES, "label", "t1")(case)


def test_little_overlap_is_noted(tmp_path):
    images = tumour_images()
    part = images["pet"].affine.copy()
    part[0, 3] += 25
    case = AuditGridsd(NAMES, "label", "t1")(load(tmp_path, {**images, "pet": Volume(images["pet"].data, part)}))
    assert len(case[NOTES]) == 1
    assert case[NOTES][0].startswith("pet: covers")


@pytest.mark.parametrize("change", ["shift", "shape", "spacing"])
def test_a_label_on_another_grid_is_refused(tmp_path, change):
    images = tumour_images()
    data, affine = images["label"].data, images["label"].affine.copy()
    if change == "shift":
        affine[1, 3] += 1.7  # one voxel
    elif change == "shape":
        data = data[:-1]
    else:
        affine = affine @ np.diag([1, 1, 1.1, 1])
    case = load(tmp_path, {**images, "label": Volume(data, affine)})
    with pytest.raises(CaseError, match=r"^file .*/label.nii.gz: the label is on another grid than t1"):
        AuditGridsd(NAMES, "label", "t1")(case)


def test_a_label_stored_along_other_axes_is_on_another_grid(tmp_path):
    images = tumour_images()
    case = load(tmp_path, {**images, "label": stored_as(images["label"], "LPS")})
    with pytest.raises(CaseError, match="another grid"):
        AuditGridsd(NAMES, "label", "t1")(case)


def test_rounding_in_a_labels_header_is_no_other_grid(tmp_path):
    images = tumour_images()
    affine = images["label"].affine.copy()
    affine[:3, 3] += 0.004
    case = load(tmp_path, {**images, "label": Volume(images["label"].data, affine)})
    assert "label" in AuditGridsd(NAMES, "label", "t1")(case)


def test_without_the_reference_the_next_in_declared_order_takes_its_place(tmp_path):
    case = load(tmp_path, {name: v for name, v in tumour_images().items() if name in ("pet", "ct", "label")})
    assert case[REFERENCE] == "ct"
    assert case[NOTES] == ["t1 is absent: the mask is on the grid of ct"]


def test_without_the_reference_the_label_may_have_another_grid_but_not_another_space(tmp_path):
    images = {name: v for name, v in tumour_images().items() if name in ("pet", "label")}
    audit = AuditGridsd(NAMES, "label", "t1")
    case = ResampleToGridd(NAMES, "label", None)(audit(load(tmp_path, images)))
    values, _ = expected_at(images["label"], case["pet"].affine.numpy(), case["pet"].shape[1:])
    inside = np.abs(values - 0.5) > 0.01
    assert case["label"][0].sum() > 10
    np.testing.assert_array_equal(case["label"][0].numpy()[inside] > 0, values[inside] > 0.5)
    far = Volume(images["label"].data, affine_of(origin=(400, 0, 0)))
    with pytest.raises(CaseError, match=r"^file .*/label.nii.gz: label:.* does not overlap pet"):
        audit(load(tmp_path, {**images, "label": far}))


def test_no_modality_at_all():
    with pytest.raises(CaseError, match=r"the case has no image \(expected at least one of t1, ct, pet\)"):
        SelectReferenced(NAMES, "t1")({"case_id": "x"})


def test_the_reference_must_be_declared():
    with pytest.raises(ValueError, match="reference must be one of"):
        SelectReferenced(NAMES, "t2")


@pytest.mark.parametrize("pixdim", [(2, 2), (2, 2, 0), (2, 2, -1), ()])
def test_an_impossible_spacing_is_noticed_before_the_first_case(pixdim):
    with pytest.raises(ValueError, match="pixdim needs three positive numbers"):
        preprocessing(MODALITIES, "t1", pixdim)


def test_every_value_above_zero_is_target(tmp_path):
    label = label_volume()
    done = resample(tmp_path, {"t1": tumour_images()["t1"], "label": Volume(label.data * 255, label.affine)}, None)
    assert torch.equal(done["label"].unique(), torch.tensor([0.0, 1.0]))
    np.testing.assert_array_equal(done["label"][0].numpy(), label.data)


def test_what_shares_the_references_voxels_is_cut_to_its_box_and_nothing_else():
    """A CT on the T1's voxels gives the same whether its file is larger or not; other grids are left alone."""
    data = torch.arange(8 * 7 * 6.0).reshape(1, 8, 7, 6)
    affine = torch.tensor(affine_of((1.5, 1.7, 3.1), angles=OBLIQUE))
    large = MetaTensor(data, affine=affine)
    start = torch.eye(4, dtype=torch.float64)
    start[:3, 3] = torch.tensor([2.0, 1.0, -1.0])
    reference = Grid((4, 9, 5), (affine @ start).numpy())
    cut = crop_to_lattice(large, reference)
    np.testing.assert_array_equal(cut, data[:, 2:6, 1:, :4])
    np.testing.assert_allclose(grid_of(cut).world([0, 0, 0]), grid_of(large).world([2, 1, 0]), atol=1e-9)
    start[0, 3] = 2.4
    other = Grid((4, 9, 5), (affine @ start).numpy())
    assert crop_to_lattice(large, other) is large


def test_gaps_do_not_spread_when_a_volume_is_resampled():
    """Known voxels keep their mean, weighted as SciPy interpolates; a new voxel that is mostly unknown is unknown."""
    data = np.random.default_rng(0).normal(100, 10, (12, 11, 10)).astype(np.float32)
    data[:5] = np.nan
    volume = MetaTensor(torch.from_numpy(data[None]), affine=torch.eye(4, dtype=torch.float64))
    target = Grid((9, 11, 10), np.diag([1.25, 1, 1, 1]))
    moved = around_gaps(lambda v: restore_grid(v, target), volume)[0].numpy()
    places = (
        np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"))
        * np.array([1.25, 1, 1])[:, None, None, None]
    )
    values, weights = (
        map_coordinates(a, places, order=1, mode="nearest") for a in (np.nan_to_num(data), 1.0 * ~np.isnan(data))
    )
    np.testing.assert_array_equal(np.isnan(moved), weights < 0.5)
    known = weights >= 0.5
    np.testing.assert_allclose(moved[known], (values / np.maximum(weights, 0.5))[known], rtol=1e-4)
    whole = around_gaps(lambda v: restore_grid(v, Grid(data.shape, np.eye(4))), volume)[0].numpy()
    np.testing.assert_allclose(whole, data, rtol=1e-5)
