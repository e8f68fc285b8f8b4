"""Odd labels as cases whose drawn voxels stand out of the image, and a PET series of odd times; helpers, not tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from matplotlib.path import Path as Polygon
from pydicom.sr.codedict import codes

from differseg_med.export.seg_frames import packed_bytes
from differseg_med.io.dicom.files import quiet
from support.making import COLUMNS, ORIGIN, ROWS, SLICES, SPACING, STEP, save, slices, uid

DATA = Path(__file__).parents[1] / "data" / "odd_inputs"

LABELS = {
    "noise": 500,
    "noise_value": 500,
    "never_painted": 0,
    "twice": 100,
    "named_1": 100,
    "named_2": 100,
    "odd_seg": 700,
}
"""Cases of `make_drawn` and the voxels of each label."""


@dataclass(frozen=True)
class Drawn:
    """A case with a label: its cells, which voxels are drawn, and what the commands must say.

    Args:
        image: file or folder of the image that it was drawn on; the drawn voxels stand out.
        cell: of the label.
        mask: expected voxels ``(i, j, k)``, found without this package.
        scan: pattern of level and reason of the audit's lines.
        said: pattern of what check, evaluate and export must say; "" for nothing.
    """

    image: Path
    cell: str
    mask: np.ndarray
    scan: str
    said: str = ""


def bright(mask: np.ndarray) -> np.ndarray:
    """Voxels whose mask by threshold is ``mask``."""
    return np.where(mask, 300, np.random.default_rng(0).integers(80, 120, mask.shape)).astype(np.int16)


def polygon_mask(file: Path, number: int) -> np.ndarray:
    """Voxels ``(i, j, k)`` whose centres the first contour of each slice of a region holds, with Matplotlib."""
    (region,) = (r for r in pydicom.dcmread(file).ROIContourSequence if int(r.ReferencedROINumber) == number)
    mask = np.zeros((COLUMNS, ROWS, SLICES), bool)
    centres = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="ij"), -1).reshape(-1, 2)
    for contour in region.ContourSequence:
        points = (np.array(contour.ContourData, float).reshape(-1, 3) - ORIGIN) / [SPACING[1], SPACING[0], STEP]
        inside = Polygon(points[:, :2]).contains_points(centres).reshape(COLUMNS, ROWS)
        mask[..., round(points[0, 2])] |= inside
    return mask


def drawn_dicom(folder: Path, name: str, number: int, selector: str, scan: str) -> Drawn:
    """An RTSTRUCT beside an MR series on which the region stands out."""
    mask = polygon_mask(DATA / name, number)
    image = save(folder / "image", slices(bright(mask).transpose(2, 1, 0), modality="MR", series="t1"))
    shutil.copy(DATA / name, folder / "rt.dcm")
    return Drawn(image, f"{folder / 'rt.dcm'}::{selector}", mask, scan)


def odd_segmentation(folder: Path) -> Drawn:
    """A DICOM SEG whose packed bits are an odd number of bytes, as highdicom writes it."""
    mask = np.zeros((39, 35, 7), bool)
    mask[4:14, 6:16] = True
    source = slices(bright(mask).transpose(2, 1, 0), modality="MR", series="t1")
    for dataset in source:
        dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber, dataset.SeriesNumber = "", 1
    algorithm = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    described = hd.seg.SegmentDescription(1, "GTV", codes.SCT.Organ, codes.SCT.Liver, algorithm)
    pixels = mask.transpose(2, 1, 0).astype(np.uint8)
    names = ("a", "b", "c", "d")
    with quiet():
        made = hd.seg.Segmentation(source, pixels, "BINARY", [described], uid("s"), 1, uid("i"), 1, *names)
    assert packed_bytes(7, 39 * 35) % 2 == 1
    image = save(folder / "image", source)
    made.save_as(folder / "seg.dcm")
    return Drawn(image, f"{folder / 'seg.dcm'}::GTV", mask, "ok: used as label")


def drawn_files(folder: Path, name: str, label: np.ndarray, affine: np.ndarray, cell: str, **said: str) -> Drawn:
    image = nib.Nifti1Image(bright(label), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / "t1.nii.gz")
    path = folder / f"label{name[name.index('.') :]}"
    shutil.copy(DATA / name, path)
    return Drawn(folder / "t1.nii.gz", f"{path}{cell}", label, "ok: used as label", **said)


def make_drawn(root: Path) -> dict[str, Drawn]:
    folders = {name: root / name for name in LABELS}
    for folder in folders.values():
        folder.mkdir()
    noise = nib.load(DATA / "label_float_noise.nii.gz")
    axial = nib.load(DATA / "axial_img.nii.gz")
    ones, none = np.abs(noise.get_fdata() - 1) < 1e-6, np.zeros(axial.shape, bool)
    noisy, empty = "label_float_noise.nii.gz", "slicer_never_painted.seg.nrrd"
    twice, named = "rt_contour_twice_rounded.dcm", "rt_duplicate_names.dcm"
    blank = r"warning: not used: 2 candidates for the label \(Lesion01 \(1\), Lesion01 \(2\)\)"
    return {
        "noise": drawn_files(folders["noise"], noisy, ones, noise.affine, ""),
        "noise_value": drawn_files(folders["noise_value"], noisy, ones, noise.affine, "::1"),
        "never_painted": drawn_files(
            folders["never_painted"],
            empty,
            none,
            axial.affine,
            "",
            said="segment GTV was never painted: taken as empty",
        ),
        "twice": drawn_dicom(folders["twice"], twice, 1, "GTV", "ok: used as label"),
        "named_1": drawn_dicom(folders["named_1"], named, 1, "1", blank),
        "named_2": drawn_dicom(folders["named_2"], named, 2, "2", blank),
        "odd_seg": odd_segmentation(folders["odd_seg"]),
    }


def late_injection(dataset: pydicom.FileDataset, number: int) -> None:
    dataset.Units, dataset.DecayCorrection, dataset.PatientWeight = "BQML", "START", "70.0"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20250101"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "110000.000000"
    dataset.ActualFrameDuration, dataset.FrameReferenceTime = "300000", "150000.0"
    dataset.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1.469889179", "0.0"
    drug = pydicom.Dataset()
    drug.RadiopharmaceuticalStartTime = "110100.00"
    drug.RadiopharmaceuticalStartDateTime = "20250101110100.00"
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "368080000.0", "6586.2"
    dataset.RadiopharmaceuticalInformationSequence = [drug]
