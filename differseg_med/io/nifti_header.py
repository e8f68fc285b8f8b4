"""Headers of NIfTI files: what nibabel would mend in silence is refused, and where programs disagree is known.

A NIfTI header may state two transforms (sform, qform), each with a code of its space, and the distance of voxels a
third time (pixdim). Programs take different ones:

* here, and in nibabel, MONAI and FSL: the sform if its code is not 0, else the qform, else a guess from pixdim;
* in 3D Slicer, ITK-SNAP and everything on ITK: the sform only if its code is 1 or the qform's is 0, else the qform;
  the distance of voxels from pixdim in any case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec, voxel_sizes
from nibabel.spatialimages import HeaderDataError

from differseg_med.errors import CaseError, Finding, Level
from differseg_med.geometry import ALMOST_SAME_VOXELS, SAME_GRID_MM, FloatArray, Grid, check_affine, grid_distance_mm
from differseg_med.io.budget import check_claim, unpack_start

PAIR = (".img", ".hdr", ".img.gz", ".hdr.gz")
"""Endings of a NIfTI in two files."""

NIFTI = (".nii", ".nii.gz", *PAIR)

MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres of NIfTI's units of length: unknown (taken as mm), metre, millimetre, micrometre."""

_UNITS = {1: "metres", 3: "micrometres"}
_CODES = range(6)
COLOURS = {128: "RGB", 2304: "RGBA"}
SLICER = "3D Slicer and other programs on ITK"
GUESSED = "where the patient's left is can only be guessed"

_LARGEST = 540  # bytes of a NIfTI-2 header
_SHEAR = 1.1e-4  # cosine between axes from which ITK takes no sform, measured with ITK 5.4
SEPARATE = "Store each sequence or time point as a file of its own."
_CONVERT = "Convert the image again from the source."
_FIND_OUT = "Find out which is right (against another image of the patient) and save the file with it."


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a NIfTI header says.

    Args:
        fields: nibabel's header, as it stands in the file.
        shape: of the one volume, without axes of one voxel behind the third.
        affine: 4 x 4, mm, RAS, in the way of nibabel.
        itk_affine: where programs on ITK put the voxels; None if they refuse the file.
        voxels: the file that holds them, and `offset` where they begin there.
        findings: what is doubtful.
        channels: volumes in the file, one unless several were asked for.
    """

    fields: Any
    shape: tuple[int, ...]
    affine: FloatArray
    itk_affine: FloatArray | None
    voxels: Path
    offset: int
    findings: tuple[Finding, ...]
    channels: int = 1


def read_nifti_header(path: Path, *, several: bool = False) -> NiftiHeader:
    """Read the header of a NIfTI file, of a pair from either of its two files.

    Args:
        path: the file.
        several: let a fourth axis pass, as in files of the Medical Segmentation Decathlon.

    Raises:
        CaseError: if it is none, contradicts itself, or says something that this program does not read.
    """
    header_file, voxel_file = _files(path)
    fields = _fields(header_file)
    shape, channels = _shape(fields, path, several=several)
    size = _check_type(fields, path)
    offset = _offset(fields, path, paired=header_file != voxel_file)
    packed = voxel_file.name.lower().endswith(".gz")
    held = voxel_file.stat().st_size
    axes = shape if channels == 1 else (*shape, channels)
    unpacked, beside = (
        (offset, 0) if packed else (0, offset)
    )  # where the offset lies: in what is packed, or in the file
    check_claim(path, axes, size, held=max(held - beside, 0), packed=packed, before=unpacked)
    _check_spacing(fields, path)
    scale = _millimetres(fields, path)
    try:
        fields.get_slope_inter()
        affine = np.asarray(fields.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise CaseError(
            "the header's rotation (quaternion) or scaling of values is no number",
            file=path,
            found=str(error).split("\n")[0],
            remedy=_CONVERT,
        ) from error
    itk = _itk_affine(fields)
    units = from_matvec(np.eye(3) * scale)
    with np.errstate(all="ignore"):  # numbers that are none are judged next
        affine, itk = units @ affine, None if itk is None else units @ itk
    if problem := check_affine(affine):
        raise CaseError(problem, file=path, remedy="Convert the original DICOM series again, or repair the header.")
    findings = [Finding(*doubt, file=path) for doubt in _doubts(fields, Grid(shape, affine), itk, scale)]
    return NiftiHeader(fields, shape, affine, itk, voxel_file, offset, tuple(findings), channels)


def codes(fields: Any) -> tuple[int, int]:
    """Codes of the sform and of the qform."""
    return int(fields["sform_code"]), int(fields["qform_code"])


def _files(path: Path) -> tuple[Path, Path]:
    """The file with the header and the one with the voxels."""
    name = path.name.lower()
    ending = next((ending for ending in sorted(PAIR, key=len, reverse=True) if name.endswith(ending)), "")
    if not ending:
        return path, path
    base = path.name[: len(path.name) - len(ending)]
    both = []
    for part in (".hdr", ".img"):
        names = (base + part, base + part + ".gz")
        found = next((path.parent / n for n in names if (path.parent / n).is_file()), None)
        if found is None:
            raise CaseError(
                f"the other file of the pair ({names[0]}) is missing", file=path, remedy="Copy both files together."
            )
        both.append(found)
    return both[0], both[1]


def _fields(path: Path) -> Any:
    """The fields of the header as they stand in the file: nibabel's checks would mend them without a word."""
    with path.open("rb") as file:
        raw = unpack_start(file, _LARGEST) if path.name.lower().endswith(".gz") else file.read(_LARGEST)
    small, large = nib.Nifti1Header.sizeof_hdr, nib.Nifti2Header.sizeof_hdr
    size = {raw[:4], raw[3::-1]} if len(raw) >= small else set()
    if large.to_bytes(4, "little") in size and len(raw) >= large:
        fields: Any = nib.Nifti2Header(raw[:large], check=False)
    elif small.to_bytes(4, "little") in size:
        fields = nib.Nifti1Header(raw[:small], check=False)
    else:
        raise not_an_image(path)
    magic = bytes(fields["magic"].item())[:4].rstrip(b"\0")  # the fourth byte is 0
    if not magic and path.name.lower().endswith((".hdr", ".hdr.gz")):
        raise CaseError(
            "an Analyze 7.5 file: it does not say where the patient's left is",
            file=path,
            expected="NIfTI",
            remedy="Convert the original DICOM series to NIfTI.",
        )
    paired = path.name.lower().endswith(PAIR)
    if magic not in ((b"ni1", b"ni2") if paired else (b"n+1", b"n+2")):
        raise not_an_image(path)
    return fields


def not_an_image(path: Path) -> CaseError:
    """The error for a file whose header is not that of its format."""
    return CaseError(
        "the file cannot be read; it is damaged, cut short or not an image",
        file=path,
        remedy="Copy or convert it again from the source.",
    )


def _shape(fields: Any, path: Path, *, several: bool) -> tuple[tuple[int, ...], int]:
    dims = [int(n) for n in fields["dim"]]
    if not 1 <= dims[0] <= 7:
        raise not_an_image(path)
    dims = dims[1 : dims[0] + 1]
    channels = dims.pop(3) if several and len(dims) > 3 else 1
    return one_volume(dims, path), channels


def one_volume(shape: list[int] | tuple[int, ...], path: Path) -> tuple[int, ...]:
    """The three axes of a volume; axes of one voxel behind them are left out.

    Raises:
        CaseError: for any other number of axes.
    """
    kept = list(shape)
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    if len(kept) != 3:
        raise CaseError(
            "not one 3-D volume",
            file=path,
            expected="one volume of three axes",
            found=f"{' x '.join(map(str, kept))} voxels",
            remedy=SEPARATE,
        )
    return tuple(kept)


def _check_type(fields: Any, path: Path) -> int:
    """Bytes of a voxel.

    Raises:
        CaseError: for complex numbers, colours, single bits and unknown types.
    """
    code = int(fields["datatype"])
    if code in COLOURS:
        raise CaseError(
            "the voxels are colours, not one number each",
            file=path,
            expected="one number per voxel",
            found=COLOURS[code],
            remedy="Save the image as grey values, or the label as numbers, instead of a colour overlay.",
        )
    try:
        dtype = np.dtype(fields.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype(np.void)
    if dtype.kind == "c":
        raise complex_voxels(path, str(dtype))
    if dtype.kind not in "iuf" or not dtype.itemsize:
        raise CaseError("the header states no known type of voxels", file=path, found=f"type {code}", remedy=_CONVERT)
    return dtype.itemsize


def complex_voxels(path: Path, found: str) -> CaseError:
    """The error for complex voxels."""
    return CaseError(
        "the voxels are complex numbers",
        file=path,
        expected="one real number per voxel",
        found=found,
        remedy="Save the magnitude image.",
    )


def _offset(fields: Any, path: Path, *, paired: bool) -> int:
    offset = float(fields["vox_offset"])
    least = 0 if paired else fields.sizeof_hdr + 4
    if not math.isfinite(offset) or offset % 1 or offset < 0 or 0 < offset < least:
        raise not_an_image(path)
    return max(int(offset), least)


def _check_spacing(fields: Any, path: Path) -> None:
    spacing = [float(mm) for mm in fields["pixdim"][1:4]]
    known = {*codes(fields)} <= {*_CODES}
    if known and all(math.isfinite(mm) and mm > 0 for mm in spacing):
        return
    if not known:
        problem, expected, found = "the header's codes of sform and qform are unknown", "0 to 5", str(codes(fields))
    else:
        problem, expected = "the header states no distance between voxels", "three numbers above 0 in pixdim"
        found = " x ".join(f"{mm:g}" for mm in spacing)
    raise CaseError(problem, file=path, expected=expected, found=found, remedy=_CONVERT)


def _millimetres(fields: Any, path: Path) -> float:
    """Millimetres of the header's unit of length."""
    unit = int(fields["xyzt_units"]) & 7
    if unit not in MILLIMETRES:
        raise CaseError(
            "the header's unit of length is unknown",
            file=path,
            expected="metres, millimetres or micrometres",
            found=f"code {unit}",
            remedy="Save the image in millimetres.",
        )
    return MILLIMETRES[unit]


def _itk_affine(fields: Any) -> FloatArray | None:
    """Where programs on ITK put the voxels, in the header's unit; tests compare this with SimpleITK."""
    sform_code, qform_code = codes(fields)
    pixdim = np.array(fields["pixdim"][1:4], dtype=np.float64)
    if not sform_code and not qform_code:
        return np.diag([-pixdim[0], -pixdim[1], pixdim[2], 1.0])
    taken = None
    if sform_code and (sform_code == 1 or not qform_code):
        sform = np.asarray(fields.get_sform(), dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            axes = sform[:3, :3] / voxel_sizes(sform)
        if np.abs(axes.T @ axes - np.eye(3)).max() <= _SHEAR:
            taken = sform
    if taken is None:
        if not qform_code:
            return None
        try:
            taken = np.asarray(fields.get_qform(), dtype=np.float64)
        except (HeaderDataError, ValueError):
            return None
    return from_matvec(taken[:3, :3] / voxel_sizes(taken) * pixdim, taken[:3, 3])


def _doubts(fields: Any, grid: Grid, itk: FloatArray | None, scale: float) -> list[tuple[Level, str, str]]:
    """Level, message and remedy of each."""
    doubts: list[tuple[Level, str, str]] = []
    if scale != 1.0:
        unit = _UNITS[int(fields["xyzt_units"]) & 7]
        spacing = " x ".join(f"{mm:.3g}" for mm in grid.spacing_mm)
        message = f"the header's unit is {unit}: converted, the voxels are {spacing} mm"
        doubts.append(("warning", message, "Check that this is the size of the voxels."))
    if doubt := _transform_doubt(fields, grid, itk, scale):
        doubts.append(doubt)
    return doubts


def _transform_doubt(fields: Any, grid: Grid, itk: FloatArray | None, scale: float) -> tuple[Level, str, str] | None:
    sform_code, qform_code = codes(fields)
    elsewhere = math.inf if itk is None else grid_distance_mm(grid, Grid(grid.shape, itk))
    if not sform_code and not qform_code:
        return "warning", f"neither sform nor qform is set: {GUESSED}; {_puts(elsewhere)}", _FIND_OUT
    spacing = min(grid.spacing_mm)
    tolerance = max(SAME_GRID_MM, ALMOST_SAME_VOXELS * spacing)
    apart = 0.0
    if sform_code and qform_code:
        qform = from_matvec(np.eye(3) * scale) @ np.nan_to_num(fields.get_qform())
        apart = grid_distance_mm(grid, Grid(grid.shape, qform))
    if max(apart, elsewhere) <= tolerance:
        return None
    words = []
    level: Level = "warning"
    if apart > tolerance:
        pair = f"sform (code {sform_code}) and qform (code {qform_code})"
        words.append(f"{pair} put voxels up to {apart:.1f} mm apart; the sform is taken")
        level = "error" if apart > spacing and sform_code == qform_code else level
    stated = np.array(fields["pixdim"][1:4], dtype=np.float64) * scale
    if np.abs(stated - grid.spacing_mm).max() * max(grid.shape) > tolerance:
        own, other = (" x ".join(f"{mm:.3f}" for mm in sizes) for sizes in (grid.spacing_mm, stated.tolist()))
        words.append(f"the voxels of the {'sform' if sform_code else 'qform'} are {own} mm, pixdim says {other} mm")
    if elsewhere > tolerance:
        words.append(_puts(elsewhere))
    return level, "; ".join(words), _FIND_OUT


def _puts(distance: float) -> str:
    if math.isinf(distance):
        return f"{SLICER} do not open the file"
    return f"{SLICER} put the voxels up to {distance:.1f} mm elsewhere"
