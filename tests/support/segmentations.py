"""A mask and its description for exports, and DICOM SEG as dcmqi reads it; helpers, not tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.sr.coding import Code

from differseg_med.export.segment import SegmentInfo
from support.series import COLUMNS, ROWS, SLICES, positions

LESION = SegmentInfo(
    "Lesion",
    color=(144, 238, 144),
    property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    property_type=Code("4147007", "SCT", "Mass"),
    property_type_modifier=Code("7771000", "SCT", "Left"),
    anatomic_region=Code("68367000", "SCT", "Thigh"),
    anatomic_region_modifier=Code("24028007", "SCT", "Right"),
    algorithm_type="AUTOMATIC",
    algorithm_name="model",
    algorithm_version="1.2.3",
)
MASK = (np.random.default_rng(0).random((COLUMNS, ROWS, SLICES)) > 0.6).astype(np.uint8)


def read_by_dcmqi(path: Path, folder: Path) -> tuple[np.ndarray, dict]:
    """World positions (RAS) of the foreground as dcmqi (3D Slicer's reader) sees them, and its description."""
    folder.mkdir()
    program = Path(sys.executable).with_name("segimage2itkimage")
    command = [program, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nifti"]
    subprocess.run(command, check=True, capture_output=True)
    image = nib.load(folder / "1.nii.gz")
    return positions(np.asarray(image.dataobj), image.affine), json.loads((folder / "meta.json").read_text())


def validated(program: Path, path: Path, sort: str = "Segmentation") -> list[str]:
    """Errors that dciodvfy finds in an object of this sort."""
    found = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).splitlines()
    assert sort in lines, lines  # it knew what it read
    return [line for line in lines if line.startswith(("Error", "Abort"))]
