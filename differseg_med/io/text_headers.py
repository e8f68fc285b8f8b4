"""Headers of NRRD and MetaImage files, looked at before ITK sees them.

ITK believes these headers: it reads voxels from any file of the machine that they name, allocates whatever they claim,
takes 1 mm where no distance is stated, and a number of axes beyond its own ends the process. What gets through here,
ITK reads; geometry is ITK's alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from differseg_med.errors import CaseError
from differseg_med.io.budget import MAX_HEADER_BYTES, beside, check_claim
from differseg_med.io.nifti_header import SEPARATE, complex_voxels, not_an_image

NRRD = (".nrrd", ".nhdr")
META = (".mha", ".mhd")

META_TYPES = {"CHAR": "i1", "SHORT": "i2", "INT": "i4", "LONG": "i4", "LONG_LONG": "i8", "FLOAT": "f4", "DOUBLE": "f8"}
"""NumPy's names of the signed types."""

_META_LONGEST = 499
"""Characters that MetaIO reads of the value of one of its own fields; the rest it takes for the next line."""

_META_FIELDS = re.compile(
    r"Comment|Object(Sub)?Type|TransformType|NDims|Name|(Parent|Sequence)?ID|AcquisitionDate|Color|(Image)?Position|Origin"
    r"|Offset|TransformMatrix|Rotation|Orientation|CenterOfRotation|DistanceUnits|AnatomicalOrientation|DimSize|Modality"
    r"|HeaderSize(PerSlice)?|Element(Spacing|Size|Min|Max|NumberOfChannels|Type|DataFile|NBits|ByteOrderMSB)"
    r"|ElementToIntensityFunction(Slope|Offset)|BinaryData(ByteOrderMSB)?|CompressedData(Size)?|CompressionLevel"
)
NRRD_TYPES = {
    **dict.fromkeys(("signedchar", "int8", "int8_t", "uchar", "unsignedchar", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "shortint", "signedshort", "signedshortint", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsignedshort", "unsignedshortint", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signedint", "int32", "int32_t", "uint", "unsignedint", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "longlongint", "signedlonglong", "signedlonglongint", "int64", "int64_t"), 8),
    **dict.fromkeys(("ulonglong", "unsignedlonglong", "unsignedlonglongint", "uint64", "uint64_t", "double"), 8),
}
"""Bytes of NRRD's types, by their names without spaces."""

MILLIMETRE = ("mm", "millimeter", "millimetre", "millimeters", "", "?", "???", "none")
"""Units of length that are millimetres, or not stated."""

_TEXT = ("text", "txt", "ascii")
MAX_AXES = 5
"""Of a file that ITK is let to read."""

_SPACES = {"leftposteriorsuperior", "rightanteriorsuperior", "leftanteriorsuperior", "lps", "ras", "las"}
"""NRRD's spaces that ITK turns into LPS, small letters only; each may end with ``time`` or ``t``."""

_STORE = "Save it again from the program that made it, with the distance of voxels in millimetres."


@dataclass(frozen=True)
class TextHeader:
    """What a text header says of its voxels.

    Args:
        shape: along each axis, in the order of the file.
        components: values of a voxel, of a MetaImage.
        value_bytes: bytes of one value.
        voxels: the file with the voxels, and where they begin in it.
        packed: ``gzip``, ``zlib`` or nothing.
        swapped: whether values of several bytes begin with the highest.
        dtype: of a MetaImage, as NumPy calls it; empty if ITK has to read the voxels.
        as_words: whether the values of a MetaImage are written as words.
        states_space: whether the directions of the axes in the patient are stated.
    """

    shape: tuple[int, ...]
    components: int
    value_bytes: int
    voxels: Path
    start: int
    packed: str
    swapped: bool
    states_space: bool
    dtype: str = ""
    as_words: bool = False

    @property
    def size(self) -> int:
        """Bytes of all voxels, unpacked."""
        return math.prod(self.shape) * self.components * self.value_bytes


def read_text_header(path: Path) -> TextHeader:
    """Read the header of an NRRD or MetaImage file and hold it against the file.

    Raises:
        CaseError: if ITK must not read it, or would read something else than it says.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_HEADER_BYTES)
    try:
        header, values = (_nrrd if path.name.lower().endswith(NRRD) else _meta)(path, raw)
    except (ValueError, KeyError, OverflowError) as error:  # numbers that are none, fields that are missing
        raise not_an_image(path) from error
    held = header.voxels.stat().st_size - header.start
    several = (header.components,) if header.components != 1 else ()
    check_claim(path, (*header.shape, *several), values, held=max(held, 0), packed=bool(header.packed))
    return header


def _lines(raw: bytes) -> Iterator[tuple[str, int]]:
    """Each line and where the next one begins."""
    start = 0
    while (end := raw.find(b"\n", start)) >= 0:
        yield raw[start:end].rstrip(b"\r").decode("utf-8", "replace"), end + 1
        start = end + 1
    if start < len(raw):
        yield raw[start:].decode("utf-8", "replace"), len(raw)


def _numbers(text: str, count: int) -> list[float]:
    values = [float(word) for word in text.split()]
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ValueError("not so many numbers")
    return values


def _sizes(text: str, axes: int) -> tuple[int, ...]:
    sizes = tuple(int(word) for word in text.split())
    if len(sizes) != axes:
        raise ValueError("not so many axes")
    return sizes


def _check_axes(axes: int, path: Path) -> None:
    if not 3 <= axes <= MAX_AXES:
        raise CaseError(
            "not one 3-D volume", file=path, expected="one volume of three axes", found=f"{axes} axes", remedy=SEPARATE
        )


def _no_spacing(path: Path, found: str) -> CaseError:
    return CaseError("the header states no distance between voxels", file=path, found=found, remedy=_STORE)


def _other_unit(path: Path, unit: str) -> CaseError:
    return CaseError(
        "the header's unit of length is not the millimetre, which 3D Slicer and ITK take it for",
        file=path,
        expected="mm",
        found=unit,
        remedy="Save the image in millimetres.",
    )


def _nrrd(path: Path, raw: bytes) -> tuple[TextHeader, float]:
    """The header, and the bytes that a value has at least."""
    fields, start = _nrrd_fields(path, raw)
    axes = int(fields["dimension"])
    _check_axes(axes, path)
    kind = fields["type"].lower().replace(" ", "")
    if "complex" in fields.get("kinds", ""):
        raise complex_voxels(path, "kind complex")
    value_bytes, encoding = NRRD_TYPES[kind], fields["encoding"].lower()
    _check_nrrd_space(fields, axes, path)
    voxels = path
    if name := fields.get("datafile", ""):
        if "%" in name:
            raise _many_files(path)
        voxels, start = beside(path, name), 0
    packed = "gzip" if encoding in ("gzip", "gz") else "bzip2" if encoding in ("bzip2", "bz2") else ""
    least: float = value_bytes
    if encoding in _TEXT:
        least = 1
    elif encoding == "hex":
        least = 2 * value_bytes
    elif encoding != "raw" and not packed:
        raise ValueError("an unknown encoding")
    skips = [int(fields.get(name, "0")) for name in ("lineskip", "byteskip")]
    if not packed and not min(skips) < 0:
        start += sum(skips)
    header = TextHeader(
        shape=_sizes(fields["sizes"], axes),
        components=1,
        value_bytes=value_bytes,
        voxels=voxels,
        start=start,
        packed=packed,
        swapped=fields.get("endian", "little").lower() == "big" and value_bytes > 1,
        states_space=re.sub(r"[^a-z]|time$", "", fields.get("space", "").lower()).removesuffix("t") in _SPACES,
    )
    return header, least


def _nrrd_fields(path: Path, raw: bytes) -> tuple[dict[str, str], int]:
    """Fields by name in small letters without spaces, and where the header ends."""
    if not re.match(rb"NRRD000[1-5]\r?\n", raw):
        raise not_an_image(path)
    fields: dict[str, str] = {}
    for number, (line, after) in enumerate(_lines(raw)):
        if not line and number:
            return fields, after
        name, colon, value = line.partition(":")
        if number == 0 or line.startswith("#") or value.startswith("="):  # name:=value is a remark of some program
            continue
        name = re.sub(r"\W", "", name.lower())
        if not colon or name in fields:
            raise not_an_image(path)
        fields[name] = value.strip()
        if name == "datafile" and value.split()[:1] == ["LIST"]:
            raise _many_files(path)
    return fields, len(raw)


def _check_nrrd_space(fields: Mapping[str, str], axes: int, path: Path) -> None:
    """Each axis of space has a distance in millimetres."""
    if "spacedirections" in fields:
        stated = fields["spacedirections"]
        vectors = re.findall(r"none|\([^)]*\)", stated)
        if len(vectors) != axes:
            raise ValueError("not a vector for each axis")
        sizes = [math.hypot(*map(float, v.strip("()").split(","))) for v in vectors if v != "none"]
    else:
        stated = fields.get("spacings", "not stated")
        sizes = [float(mm) for mm in fields.get("spacings", "").split()][:3]
    if len(sizes) < 3 or not all(math.isfinite(mm) and mm > 0 for mm in sizes):
        raise _no_spacing(path, stated)
    units = re.findall(r'"([^"]*)"', " ".join(fields.get(name, "") for name in ("spaceunits", "units")))
    for unit in units[:3]:  # of the units of all axes those of time stand last
        if unit.lower() not in MILLIMETRE:
            raise _other_unit(path, unit)


def _many_files(path: Path) -> CaseError:
    return CaseError(
        "the header names a file per slice, which is not read",
        file=path,
        expected="voxels in the file itself, or in one file beside it",
        remedy="Save the volume as one file.",
    )


def _meta(path: Path, raw: bytes) -> tuple[TextHeader, float]:
    """The header, and the bytes that a value has at least."""
    fields, start = _meta_fields(path, raw)
    axes = int(fields["NDims"])
    _check_axes(axes, path)
    shape = _sizes(fields["DimSize"], axes)
    kind = re.fullmatch(r"MET_(U?)([A-Z_]+?)(_ARRAY)?", fields["ElementType"])
    if kind is None or kind[3]:
        raise ValueError("an unknown type")
    dtype = META_TYPES[kind[2]]
    value_bytes = int(dtype[1:])
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", ""))
    if not spacing or min(_numbers(spacing, axes)[:3]) <= 0:
        raise _no_spacing(path, f"ElementSpacing {spacing or 'not stated'}")
    if (unit := fields.get("DistanceUnits", "mm")).lower() not in MILLIMETRE:
        raise _other_unit(path, unit)
    turn = [name for name in ("TransformMatrix", "Rotation", "Orientation") if name in fields]
    for matrix in turn:
        _numbers(fields[matrix], axes * axes)
    for vector in {"Offset", "Position", "Origin"} & {*fields}:
        _numbers(fields[vector], axes)
    voxels, start = _meta_voxels(path, fields, start)
    _check_length(path, fields, voxels.stat().st_size - start)
    packed, binary = _true(fields, "CompressedData", "False"), _true(fields, "BinaryData", "True")
    swapped = _true(fields, "BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    header = TextHeader(
        shape=shape,
        components=int(fields.get("ElementNumberOfChannels", "1")),
        value_bytes=value_bytes,
        voxels=voxels,
        start=start,
        packed="zlib" if packed else "",
        swapped=swapped and value_bytes > 1,
        states_space=bool(turn),
        dtype=(">" if swapped else "<") + (dtype.replace("i", "u") if kind[1] else dtype),
        as_words=not binary,
    )
    before = int(fields.get("HeaderSize", "0"))
    if (packed and not binary) or (packed and before < 0):
        raise ValueError("an unknown encoding")
    if before < 0:  # the voxels are the end of their file
        header = replace(header, start=max(voxels.stat().st_size - header.size, 0))
    return header, value_bytes if binary else 1


def _true(fields: Mapping[str, str], name: str, otherwise: str) -> bool:
    """A yes or no, as MetaIO reads it."""
    return fields.get(name, otherwise).startswith(("T", "t", "1"))


def _meta_voxels(path: Path, fields: Mapping[str, str], local: int) -> tuple[Path, int]:
    """The file with the voxels of a MetaImage, and where they begin; ``local`` is where the header ends.

    Raises:
        CaseError: if they lie in several files, or anywhere else than beside the header.
        ValueError: if what stands before them cannot be right.
    """
    name = fields["ElementDataFile"]
    if name.upper().startswith("LIST") or "%" in name:
        raise _many_files(path)
    before = int(fields.get("HeaderSize", "0"))
    if before < -1 or int(fields.get("HeaderSizePerSlice", "0")):
        raise ValueError("no such place")
    if name.upper() != "LOCAL":
        return beside(path, name), max(before, 0)
    if before > 0:
        raise ValueError("voxels within the header")
    return path, local


def _check_length(path: Path, fields: Mapping[str, str], held: int) -> None:
    """Compare the file with the length that it states, before MetaIO writes its own words to the terminal.

    Raises:
        CaseError: if it is cut short.
    """
    stated = int(fields.get("CompressedDataSize", "0"))
    if held < stated:
        raise CaseError(
            "the file is damaged or cut short",
            file=path,
            expected=f"{stated} bytes of compressed voxels, as the header says",
            found=f"{held}",
            remedy="Copy or convert it again from the source.",
        )


def _meta_fields(path: Path, raw: bytes) -> tuple[dict[str, str], int]:
    """Fields by name, and where the header ends."""
    fields: dict[str, str] = {}
    for line, after in _lines(raw):
        match = re.fullmatch(r"\s*([^=:]*[^=:\s])\s*[=:](.*)", line)
        if match is None:  # the rest of a remark of several lines
            continue
        if match[1] in fields or (_META_FIELDS.fullmatch(match[1]) and len(match[2].lstrip()) > _META_LONGEST):
            raise not_an_image(path)
        fields[match[1]] = match[2].strip()
        if "ElementDataFile" in match[1]:
            return fields, after
    raise not_an_image(path)
