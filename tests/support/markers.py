"""Names of a patient that are planted in inputs, and a search for them in every byte of outputs; helpers, not tests."""

from __future__ import annotations

import base64
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from support.making import save, slices

TAGS = (
    *("PatientName", "PatientID", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "PatientAddress"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "InstitutionName", "InstitutionAddress"),
    *("StationName", "SeriesDescription", "StudyDescription", "ProtocolName", "PatientComments", "ImageComments"),
    *("RequestedProcedureDescription", "PerformedProcedureStepDescription", "AdditionalPatientHistory", "Occupation"),
    *("PatientTelephoneNumbers", "MilitaryRank", "EthnicGroup", "RequestingPhysician", "PhysiciansOfRecord"),
    *("DeviceSerialNumber", "InstitutionalDepartmentName", "NameOfPhysiciansReadingStudy", "ResponsiblePerson"),
)
"""DICOM elements that are planted."""

_PACKED = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")
_MARKER = re.compile(rb"ZQ\d{3}DOE", re.IGNORECASE)


class Markers:
    """Gives names that stand nowhere else, and remembers what each was planted in."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    @property
    def given(self) -> list[str]:
        return list(self.kinds)

    def __call__(self, kind: str = "") -> str:
        marker = f"ZQ{len(self.kinds):03d}DOE"
        self.kinds[marker] = kind
        return marker

    def found_in(self, text: str | bytes) -> list[str]:
        """Those in a text, or in what is packed in the bytes of a file."""
        pieces = [text.encode("utf-8", "replace")] if isinstance(text, str) else unpacked(text)
        found = {match.upper().decode() for piece in pieces for match in _MARKER.findall(piece)}
        return sorted(found & set(self.kinds))

    def written(self, folder: Path) -> dict[str, list[str]]:
        """Those in the names and contents of all files of a folder, by file."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        found = {
            path.relative_to(folder).as_posix(): sorted(
                {*self.found_in(path.relative_to(folder).as_posix()), *self.found_in(path.read_bytes())}
            )
            for path in files
        }
        return {name: markers for name, markers in found.items() if markers}


def unpacked(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Bytes, and those that are packed in them: gzip, zip, base64, the texts of PNG, two bytes per letter."""
    yield data
    if b"\0" in data:
        yield data.replace(b"\0", b"")
    if depth == 4:
        return
    inner: list[bytes] = []
    for match in re.finditer(rb"\x1f\x8b\x08", data):
        try:
            inner.append(zlib.decompressobj(31).decompress(data[match.start() :]))
        except zlib.error:  # three bytes of an image
            continue
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inner += [archive.read(name) for name in archive.namelist()]
    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            inner.append(repr((image.info, dict(image.getexif()))).encode())
    else:
        inner += [base64.b64decode(text[: len(text) // 4 * 4]) for text in _PACKED.findall(data)]
    for piece in inner:
        yield from unpacked(piece, depth + 1)


def plant(marker: Markers):
    """Put markers into the tags of a data set."""

    def change(dataset, number: int) -> None:
        if number == 0:
            change.values = {keyword: marker(keyword) for keyword in TAGS}
            change.private = [marker("private") for _ in range(8)]
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
            setattr(dataset, keyword, "")  # what a SEG needs of its source; may be empty
        dataset.PositionReferenceIndicator, dataset.SeriesNumber, dataset.ImageType = "", 1, ["ORIGINAL", "PRIMARY"]
        for keyword, value in change.values.items():
            setattr(dataset, keyword, value)
        for index, value in enumerate(change.private):
            block = dataset.private_block(0x0011 + 2 * (index % 3), f"MAKER {index}", create=True)
            block.add_new(index, "LO", value)

    return change


def planted_dicom(folder: Path, marker: Markers, **options: object) -> Path:
    """A series in folders called after the patient."""
    place = folder / f"{marker('folder')} {marker('folder')}" / marker("folder")
    return save(place, slices(change=plant(marker), **options))


def planted_itk(path: Path, image: sitk.Image, marker: Markers, *keys: str) -> Path:
    """An image with markers in fields of its header, as NRRD and MetaImage have them."""
    for key in ("PatientName", "content_by", "Comment", *keys):
        image.SetMetaData(key, marker("region" if key.startswith("Segment") else path.suffix))
    sitk.WriteImage(image, path)
    assert len(marker.found_in(path.read_bytes())) >= 3
    return path


def planted_exif(marker: Markers) -> Image.Exif:
    """Who drew it, what it shows, by which machine, and comments: EXIF as JPEG, PNG, TIFF and WebP have it."""
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0x0110, 0x0131, 0x010D):
        exif[tag] = marker("EXIF")
    exif.get_ifd(0x8769).update({0x9286: b"ASCII\0\0\0" + marker("EXIF").encode(), 0xA430: marker("EXIF")})
    return exif


def planted_picture(path: Path, marker: Markers, pixels: np.ndarray) -> Path:
    """Write ``(H, W)`` or ``(H, W, 3)`` with markers in EXIF and wherever else the format has texts."""
    options: dict[str, object] = {"exif": planted_exif(marker)}
    if path.suffix == ".png":
        options["pnginfo"] = info = PngInfo()
        for key in ("Author", "Title", "Comment"):
            info.add_text(key, marker("PNG"), zip=key == "Title")
        info.add_itxt("Description", marker("PNG"), "en", "Description")
    elif path.suffix == ".jpg":
        options |= {"comment": marker("JPEG").encode(), "xmp": f"<x>{marker('JPEG')}</x>".encode(), "quality": 95}
    Image.fromarray(pixels).save(path, **options)
    assert len(marker.found_in(path.read_bytes())) >= 6  # TIFF has no comments of EXIF
    return path


def planted_png(path: Path, marker: Markers) -> Path:
    """A small picture with markers in its texts, plain and packed, and in EXIF."""
    info, exif = PngInfo(), Image.Exif()
    for key in ("Author", "Title", "Comment"):
        info.add_text(key, marker("PNG"), zip=key == "Title")
    exif[0x013B], exif[0x010E] = marker("EXIF"), marker("EXIF")
    Image.new("RGB", (8, 8)).save(path, pnginfo=info, exif=exif)
    assert len(marker.found_in(path.read_bytes())) == 5
    return path
