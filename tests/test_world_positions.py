"""The acceptance: a mask is where the reference is in the patient, however the files are stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from support.synthetic import (
    MODALITIES,
    OBLIQUE,
    ORIENTATIONS,
    ThresholdCenter,
    Volume,
    read_nifti,
    read_rows,
    row_of,
    tumour_images,
    write_case,
    write_nifti,
    write_table,
)

from differseg_med.bundles.factories import CohortEvaluator, case_loader, cohort_dataset, postprocessing, preprocessing
from differseg_med.inferers import SliceWindowInferer

PET_ORIENTATIONS = dict(zip(ORIENTATIONS, ORIENTATIONS[17:] + ORIENTATIONS[:17]))  # never that of the T1
DICE_RESAMPLED = 0.98
"""Through a grid of 2 mm and back to voxels of 1.5 x 1.7 x 3.1 mm; a mask that is one voxel off has 0.87 at best."""


def segment(
    folder: Path, files: dict[str, Path], *, pixdim=None, modality: int = 0, planes=("axial",), threshold: float = 0.7
) -> dict[str, str]:
    """The whole flow, from a table with one case to its mask and its row in the summary."""
    table = write_table(folder / "cohort.csv", [row_of("a", files, folder / "cohort.csv")])
    transform = preprocessing(MODALITIES, "t1", pixdim)
    evaluator = CohortEvaluator(
        device=torch.device("cpu"),
        val_data_loader=case_loader(cohort_dataset(table, MODALITIES, transform)),
        network=ThresholdCenter(modality, threshold),
        inferer=SliceWindowInferer((24, 24), planes=planes),
        postprocessing=postprocessing(),
        output_dir=folder / "out",
        reference="t1",
    )
    evaluator.run()
    return read_rows(folder / "out" / "summary.csv")["a"]


def mask_of(folder: Path, t1: Path) -> Volume:
    """The mask that was written, on exactly the grid of the T1."""
    mask, image = nib.load(folder / "out" / "a" / "mask.nii.gz"), nib.load(t1)
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.get_data_dtype() == np.uint8
    assert mask.header.get_xyzt_units() == image.header.get_xyzt_units()  # as other programs read the image
    return read_nifti(folder / "out" / "a" / "mask.nii.gz")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("angles", [(0, 0, 0), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_foreground_is_where_the_reference_is(tmp_path, codes, angles):
    files = write_case(tmp_path / "in", codes, angles, PET_ORIENTATIONS[codes])
    row = segment(tmp_path, files, planes=("axial", "sagittal", "coronal"))
    assert (row["status"], row["modalities"]) == ("done", "t1+ct+pet")
    mask, label = mask_of(tmp_path, files["t1"]), read_nifti(files["label"])
    np.testing.assert_array_equal(mask.data, label.data)
    np.testing.assert_allclose(mask.foreground(), tumour_images(angles)["label"].foreground(), atol=2e-3)
    assert float(row["volume_ml"]) == pytest.approx(label.data.sum() * 1.5 * 1.7 * 3.1 / 1000, abs=1e-3)


@pytest.mark.parametrize("angles", [(0, 0, 0), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS[::7])
def test_what_the_pet_shows_is_where_the_pet_is(tmp_path, codes, angles):
    """The PET has its own grid: scipy says which voxels of the T1 have an SUV above 5."""
    files = write_case(tmp_path / "in", codes, angles, PET_ORIENTATIONS[codes])
    segment(tmp_path, files, modality=2, threshold=1.5 * np.log(6.0))
    mask, pet = mask_of(tmp_path, files["t1"]), read_nifti(files["pet"])
    index = np.stack(np.meshgrid(*map(np.arange, mask.data.shape), indexing="ij"), axis=-1)
    where = nib.affines.apply_affine(np.linalg.inv(pet.affine) @ mask.affine, index)
    suv = map_coordinates(pet.data.astype(float), np.moveaxis(where, -1, 0), order=1, mode="nearest")
    clear = np.abs(suv - 5) > 0.02
    np.testing.assert_array_equal(mask.data[clear], suv[clear] > 5)
    assert 50 < mask.data.sum() < 2000


@pytest.mark.parametrize("angles", [(0, 0, 0), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS[::7])
def test_resampled_masks_stay_in_place(tmp_path, codes, angles):
    files = write_case(tmp_path / "in", codes, angles, PET_ORIENTATIONS[codes])
    segment(tmp_path, files, pixdim=(2.0, 2.0, 2.0))
    mask, label = mask_of(tmp_path, files["t1"]), read_nifti(files["label"])
    assert dice(mask.data, label.data) > DICE_RESAMPLED
    shift = mask.foreground().mean(axis=0) - label.foreground().mean(axis=0)
    assert np.abs(shift).max() < 0.4  # mm: a quarter of the smallest voxel


def test_the_networks_own_spacing_changes_nothing_if_it_is_that_of_the_file(tmp_path):
    files = write_case(tmp_path / "in", "LPS", OBLIQUE)
    segment(tmp_path, files, pixdim=(1.5, 1.7, 3.1))
    np.testing.assert_array_equal(mask_of(tmp_path, files["t1"]).data, read_nifti(files["label"]).data)


def test_a_volume_of_one_slice(tmp_path):
    images = tumour_images(OBLIQUE)
    files = {
        name: write_nifti(tmp_path / "in" / f"{name}.nii.gz", Volume(images[name].data[:, :, 4:5], images[name].affine))
        for name in ("t1", "label")
    }
    segment(tmp_path, files, pixdim=(1.5, 1.7, 2.0))
    np.testing.assert_array_equal(mask_of(tmp_path, files["t1"]).data, read_nifti(files["label"]).data)


def test_saving_changes_nothing_in_the_input(tmp_path):
    files = write_case(tmp_path / "in")
    before = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    segment(tmp_path, files)
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == before
    assert {p.name for p in (tmp_path / "in").iterdir()} == {p.name for p in files.values()}


def test_the_bounds_would_notice_one_voxel():
    """What the tests above allow is less than what a shift by one voxel does."""
    label = tumour_images()["label"].data
    assert max(dice(np.roll(label, 1, axis), label) for axis in range(3)) < DICE_RESAMPLED
    for axis in range(3):
        assert dice(np.flip(label, axis), label) < DICE_RESAMPLED
