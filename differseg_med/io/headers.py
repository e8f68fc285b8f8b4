"""The gate for files that hold a volume: what a header states, what is doubtful about it, and what is refused.

Every command asks `read_header` before it reads a file, so that all of them give the same verdict: a `CaseError`, or a
`VolumeHeader` whose findings go into audits, summaries and reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from differseg_med.errors import CaseError, Finding, Level
from differseg_med.geometry import Grid, affine_from_itk, check_affine
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.nifti_header import GUESSED, NIFTI, NiftiHeader, not_an_image, one_volume, read_nifti_header
from differseg_med.io.text_headers import META, NRRD, TextHeader, read_text_header

VOLUMES = (*NIFTI, *NRRD, *META)
"""Endings of the files that hold a volume each."""

LISTED = (".mgz", ".mgh", ".mnc", ".par", ".rec", ".nii.bz2", ".nii.zst", ".nia", ".gipl", ".vtk")
"""Endings of volumes that are not read; a scan lists them."""

CONVERT = "Convert it to NIfTI, for example with mri_convert of FreeSurfer."


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """What the header of a NIfTI, NRRD or MetaImage file states.

    Args:
        path: the file.
        grid: of its voxels, mm, RAS.
        findings: what is doubtful, none of them an error.
        nifti: of a NIfTI, its own header.
        text: of an NRRD or MetaImage, its own header.
    """

    path: Path
    grid: Grid
    findings: tuple[Finding, ...]
    nifti: NiftiHeader | None = None
    text: TextHeader | None = None

    @property
    def channels(self) -> int:
        """Volumes in the file."""
        return 1 if self.nifti is None else self.nifti.channels

    @property
    def notes(self) -> list[str]:
        """The findings in words."""
        return [finding.text for finding in self.findings]


def is_volume_file(path: str | Path) -> bool:
    """Whether a file's name ends like that of a NIfTI, NRRD or MetaImage volume."""
    return str(path).lower().endswith(VOLUMES)


def stem(name: str) -> str:
    """A volume file's name without its ending, ``.seg`` included."""
    endings = (*(f".seg{ending}" for ending in NRRD), *sorted((*VOLUMES, *LISTED), key=len, reverse=True))
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def read_header(path: str | Path, *, several: bool = False) -> VolumeHeader:
    """Read and judge the header of a volume file.

    Args:
        path: the file.
        several: let a NIfTI of several volumes pass.

    Raises:
        CaseError: if it cannot be read, is not that of one 3-D volume of numbers with a place in millimetres, claims
            more than its file can hold, names voxels elsewhere, or contradicts itself.
    """
    path = Path(path)
    try:
        header = _nifti(path, several) if path.name.lower().endswith(NIFTI) else _itk(path)
    except OSError as error:
        raise CaseError(
            f"the file cannot be opened: {error.strerror or type(error).__name__}",
            file=path,
            remedy="Check that it is there and may be read.",
        ) from error
    except CaseError:
        raise
    except Exception as error:  # what a library makes of damaged bytes
        raise unreadable(path, error) from error
    for finding in header.findings:
        if finding.level == "error":
            raise CaseError(finding.text, file=path, remedy=finding.remedy)
    return header


def header_grid(path: Path) -> Grid:
    """The grid of a volume file.

    Raises:
        CaseError: as `read_header`.
    """
    return read_header(path).grid


def nifti_header(cell: str | Path | None) -> NiftiHeader | None:
    """The NIfTI header of an image, for masks that shall lie on it in every program; None if it has none."""
    path = None if cell is None else split_cell(cell)[0]
    if path is None or not path.name.lower().endswith(NIFTI) or not path.is_file():
        return None
    try:
        return read_header(path).nifti
    except CaseError:
        return None


def verdict(path: str | Path) -> list[Finding]:
    """What `read_header` says of a file: its findings, or the error that refuses it as one finding."""
    try:
        return list(read_header(path).findings)
    except CaseError as error:
        words = str(CaseError(error.problem, expected=error.expected, found=error.found))
        return [Finding("error", words, error.remedy or "", file=error.file)]


def _nifti(path: Path, several: bool) -> VolumeHeader:
    header = read_nifti_header(path, several=several)
    return VolumeHeader(path, Grid(header.shape, header.affine), header.findings, nifti=header)


def _itk(path: Path) -> VolumeHeader:
    text = read_text_header(path)
    reader = itk_header(path)
    components = reader.GetNumberOfComponents()
    if math.prod((*reader.GetSize(), components)) != math.prod((*text.shape, text.components)):
        raise not_an_image(path)  # ITK reads something else than what was looked at
    shape = one_volume((*reader.GetSize(), *([components] if components > 1 else [])), path)
    grid = Grid(shape, itk_affine(reader))
    if problem := check_affine(grid.affine):
        raise CaseError(problem, file=path, remedy="Save the image again from the program that made it.")
    doubts: list[tuple[Level, str]] = []
    if not text.states_space:
        what = "no space" if path.name.lower().endswith(NRRD) else "no directions"
        doubts.append(("warning", f"the header states {what}: {GUESSED}"))
    look = "Compare it with another image of the patient, and save it with its directions."
    findings = tuple(Finding(level, message, look, file=path) for level, message in doubts)
    return VolumeHeader(path, grid, findings, text=text)


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """The RAS affine (4, 4) of the first three axes of an image of ITK, or of its header."""
    axes = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (axes, axes))[:3, :3]
    return affine_from_itk(image.GetSpacing()[:3], image.GetOrigin()[:3], direction)


def itk_header(path: Path) -> sitk.ImageFileReader:
    """The header of an NRRD or MetaImage file as ITK reads it, after `read_text_header`.

    Raises:
        CaseError: if one of the two refuses it.
    """
    read_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    return reader


def unreadable(path: Path, error: Exception) -> CaseError:
    """The error for a header that a library cannot read."""
    return CaseError(
        "the header cannot be read; the file is damaged, cut short or not an image",
        file=path,
        found=type(error).__name__,
        remedy="Copy or convert it again from the source.",
    )


def is_second_of_pair(path: Path) -> bool:
    """Whether a file is the ``.img`` of a NIfTI pair, whose ``.hdr`` stands for both."""
    return path.name.lower().endswith((".img", ".img.gz"))
