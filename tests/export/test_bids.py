"""BIDS derivatives: names as the specification has them, and what must stand beside the mask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.sr.coding import Code
from support.synthetic import affine_of

from differseg_med.errors import CaseError
from differseg_med.export.bids import save_bids
from differseg_med.export.segment import SegmentInfo

MASK = (np.random.default_rng(0).random((4, 3, 2)) > 0.5).astype(np.uint8)
LESION = SegmentInfo(
    "MS lesion",
    property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    algorithm_name="model",
    algorithm_version="1",
)
ENTITIES = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_mask\.nii\.gz")


@pytest.mark.parametrize(
    ("reference", "case_id", "expected"),
    [
        (
            "bids/sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz",
            "x",
            "sub-01/ses-02/anat/sub-01_ses-02_space-orig_label-MSLesion_desc-differseg_mask.nii.gz",
        ),
        (
            "bids/sub-01/pet/sub-01_trc-FDG_pet.nii.gz",
            "x",
            "sub-01/pet/sub-01_trc-FDG_space-orig_label-MSLesion_desc-differseg_mask.nii.gz",
        ),
        (
            "deriv/sub-01/anat/sub-01_space-MNI152_res-2_desc-preproc_T1w.nii.gz",
            "x",
            "sub-01/anat/sub-01_space-MNI152_label-MSLesion_desc-differseg_mask.nii.gz",
        ),
        (
            "patient7/t1.nii.gz",
            "case_07-b",
            "sub-case07B/anat/sub-case07B_space-orig_label-MSLesion_desc-differseg_mask.nii.gz",
        ),
    ],
)
def test_names_inherit_the_entities_of_the_reference(reference, case_id, expected, tmp_path):
    path = save_bids(MASK, affine_of(), tmp_path, Path(reference), case_id, LESION)
    assert path.relative_to(tmp_path).as_posix() == expected
    assert ENTITIES.fullmatch(path.name)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), MASK)


def test_what_stands_beside_the_mask(tmp_path):
    path = save_bids(MASK, affine_of(), tmp_path, Path("bids/sub-01/anat/sub-01_T1w.nii.gz"), "c", LESION)
    sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar == {
        "Type": "Lesion",
        "SpatialReference": "orig",
        "Description": "MS lesion model 1",
        "RawSources": ["sub-01/anat/sub-01_T1w.nii.gz"],
        "CohortCase": "c",
    }
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "differseg_med"
    assert {"Name", "BIDSVersion"} <= set(description)


def test_sources_are_bids_uris_where_the_masks_lie_in_the_data_set_of_the_images(tmp_path):
    """No folder above or beside the data set is named: it could be called after a patient."""
    image = tmp_path / "Doe" / "bids" / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    root = tmp_path / "Doe" / "bids" / "derivatives" / "differseg"
    path = save_bids(MASK, affine_of(), root, image, "c", LESION)
    sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"]
    assert "RawSources" not in sidecar
    save_bids(MASK, affine_of(), root, Path("t1.nii.gz"), "d", LESION)  # a case that lies elsewhere keeps the link
    link = json.loads((root / "dataset_description.json").read_text())["DatasetLinks"]["raw"]
    assert (root / link / sidecar["Sources"][0].removeprefix("bids:raw:")).resolve() == image
    assert not any("Doe" in file.read_text() for file in root.rglob("*.json"))


def test_the_validator_of_bids_finds_no_error_and_no_deprecated_word():
    program = Path(sys.executable).with_name("bids-validator-deno")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # Deno reads nothing below /dev, where others may lie
        image = Path(folder) / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"x")
        root = Path(folder) / "bids" / "derivatives" / "differseg"
        save_bids(MASK, affine_of(), root, image, "c", LESION)
        done = subprocess.run([program, "--json", root], capture_output=True, text=True, check=False)
    found = [(issue["severity"], issue["code"]) for issue in json.loads(done.stdout)["issues"]["issues"]]
    assert sorted(found) == [("warning", "README_FILE_MISSING"), ("warning", "TOO_FEW_AUTHORS")]


def test_two_cases_of_one_name_in_bids_do_not_replace_each_other(tmp_path):
    path = save_bids(MASK, affine_of(), tmp_path, Path("t1.nii.gz"), "case_1", LESION)
    save_bids(MASK, affine_of(), tmp_path, Path("t1.nii.gz"), "case_1", LESION)  # a second run
    with pytest.raises(CaseError, match=r"case case-1.*case case_1 has the same name in BIDS"):
        save_bids(1 - MASK, affine_of(), tmp_path, Path("t1.nii.gz"), "case-1", LESION)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), MASK)


def test_what_is_no_abnormality_is_a_region(tmp_path):
    path = save_bids(MASK, affine_of(), tmp_path, Path("t1.nii.gz"), "a", SegmentInfo("liver"))
    assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["Type"] == "ROI"
