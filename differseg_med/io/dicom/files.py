"""Files of a folder or a zip archive, and what their DICOM headers say, as plain values."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from differseg_med.errors import CaseError, private
from differseg_med.io.dicom.tags import HEADER_TAGS, frame_values, header_values
from differseg_med.progress import Progress

MAX_FILE_BYTES = 2**29
"""Largest single file inside an archive, unpacked: an archive bomb must not fill the memory."""

MAX_DEFLATED_BYTES = 2**28
"""Largest deflated data set, unpacked: pydicom unpacks all of it to read a header, and copies it."""

_MAX_DEPTH = 2
"""How deep archives may lie in archives."""

DIRECTORY = "a DICOM directory: the files themselves are read instead"
"""What is said of a DICOMDIR, and of the same thing under other names (DIRFILE in each folder of a Philips export)."""


@dataclass(frozen=True, order=True)
class DicomFile:
    """One file on disk, or a member of a zip archive (``members``: archive in archive, the file last)."""

    path: Path
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """File name for messages, if names may be shown."""
        return private(Path(self.members[-1]).name if self.members else self.path.name, "one of its files")


@dataclass(frozen=True)
class Header:
    """A DICOM file's header: values by keyword, and one more dictionary per frame of a multi-frame image."""

    source: DicomFile
    tags: dict[str, Any]
    frames: tuple[dict[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Skipped:
    """A file that is no use, and why."""

    source: DicomFile
    reason: str
    damaged: bool = False


class UnreadableError(Exception):
    """A file is not DICOM, or damaged DICOM."""

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.damaged = damaged


def read_headers(root: Path, progress: Progress = iter) -> tuple[list[Header], list[Skipped]]:
    """Headers of all DICOM files in a file, folder (with folders in it) or zip archive, and what was skipped.

    Raises:
        CaseError: if there is no such file or folder.
    """
    headers, skipped = [], []
    for source in progress(list(sources(root))):
        if isinstance(source, Skipped):
            skipped.append(source)
            continue
        for file_source, file in opened([source]) if not _is_archive(source.path) else _members(source):
            try:
                if isinstance(file, str):
                    raise UnreadableError(file, damaged=True)
                headers.append(read_dicom_header(file_source, file))
            except UnreadableError as error:
                skipped.append(Skipped(file_source, str(error), error.damaged))
    return headers, skipped


def sources(root: Path) -> Iterator[DicomFile | Skipped]:
    """Files below ``root`` in a fixed order; archives as one source each."""
    if root.is_file():
        yield DicomFile(root)
        return
    if not root.is_dir():
        raise CaseError("there is no such file or folder", file=root, remedy="Check the path in the cohort table.")
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        if real in seen:  # links may go round in circles
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if name.upper() == "DICOMDIR":
                yield Skipped(DicomFile(path), DIRECTORY)
            elif path.is_file():
                yield DicomFile(path)


def opened(wanted: Iterable[DicomFile]) -> Iterator[tuple[DicomFile, BinaryIO]]:
    """Open each source in turn; an archive stays open while neighbours come from it.

    Raises:
        CaseError: if a file cannot be opened or unpacked.
    """
    archive: tuple[Path, zipfile.ZipFile] | None = None
    try:
        for source in wanted:
            if not source.members:
                try:
                    with source.path.open("rb") as file:
                        yield source, file
                except OSError as error:
                    raise CaseError(
                        f"the file cannot be opened: {error.strerror or type(error).__name__}", file=source.path
                    ) from error
                continue
            try:
                if archive is None or archive[0] != source.path:
                    if archive is not None:
                        archive[1].close()
                    archive = (source.path, zipfile.ZipFile(source.path))
                content = _unpacked(archive[1], source.members)
            except (OSError, *DAMAGED) as error:
                raise CaseError("the archive is damaged", file=source.path, found=source.name) from error
            yield source, io.BytesIO(content)
    finally:
        if archive is not None:
            archive[1].close()


DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError)
"""What the zip library raises for damaged, encrypted or unknown content."""


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _members(source: DicomFile) -> Iterator[tuple[DicomFile, BinaryIO | str]]:
    """Files of an archive, or the reason why one cannot be unpacked."""
    try:
        with zipfile.ZipFile(source.path) as archive:
            yield from _walk(archive, source, 1)
    except (OSError, *DAMAGED):
        yield source, "the archive is damaged"


def _walk(archive: zipfile.ZipFile, source: DicomFile, depth: int) -> Iterator[tuple[DicomFile, BinaryIO | str]]:
    for info in sorted(archive.infolist(), key=lambda member: member.filename):
        name = Path(info.filename).name
        if info.is_dir() or name.startswith(".") or name.upper() == "DICOMDIR" or "__MACOSX" in info.filename:
            continue
        member = DicomFile(source.path, (*source.members, info.filename))
        if info.file_size > MAX_FILE_BYTES:  # no more than that is ever unpacked, whatever the archive really holds
            yield member, f"unpacked, the file is larger than {MAX_FILE_BYTES >> 30} GiB"
            continue
        try:
            if name.lower().endswith(".zip"):
                if depth >= _MAX_DEPTH:
                    yield member, "an archive in an archive in an archive"
                    continue
                with zipfile.ZipFile(io.BytesIO(_content(archive, info))) as inner:
                    yield from _walk(inner, member, depth + 1)
            else:
                with archive.open(info) as file:
                    yield member, file  # type: ignore[misc]  # ZipExtFile is a binary file in all but name
        except (OSError, *DAMAGED):
            yield member, "damaged or encrypted in its archive"


def _unpacked(archive: zipfile.ZipFile, members: tuple[str, ...]) -> bytes:
    content = _content(archive, archive.getinfo(members[0]))
    for member in members[1:]:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            content = _content(inner, inner.getinfo(member))
    return content


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes; the declared size is not believed."""
    with archive.open(info) as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("unpacked, the file is larger than the limit")
    return content


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's remarks on values out of the log: what matters is checked here, and they quote patients' data."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_dicom_header(source: DicomFile, file: BinaryIO) -> Header:
    """Read one header.

    Raises:
        UnreadableError: if the file is not DICOM, packed with gzip, or damaged.
    """
    if (source.members[-1] if source.members else source.path.name).lower().endswith(".dcm.gz"):
        raise UnreadableError("packed with gzip: unpack it, then scan again", damaged=True)
    with quiet():
        dataset = read_dataset(file, pixels=False)
        tags = header_values(dataset)
        if syntax := dataset.file_meta.get("TransferSyntaxUID"):
            tags["TransferSyntaxUID"] = str(syntax)
        return Header(source, tags, frame_values(dataset))


def read_dataset(file: BinaryIO, *, pixels: bool, every_tag: bool = False) -> FileDataset:
    """Read a data set, with or without its pixels.

    Raises:
        UnreadableError: if the file is not DICOM, or damaged.
    """
    start = file.read(140)
    file.seek(0)
    has_magic = start[128:132] == b"DICM"
    if not has_magic and not _looks_bare(start):
        raise UnreadableError("not a DICOM file", damaged=False)
    try:
        _check_deflated(file)
        dataset = pydicom.dcmread(
            file,
            force=not has_magic,
            stop_before_pixels=not pixels,
            specific_tags=None if every_tag or pixels else HEADER_TAGS,
        )
        unknown = dataset.get("SOPClassUID") is None
        directory = dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    except Exception as error:  # pydicom raises whatever the damaged bytes lead to
        raise UnreadableError(f"a damaged DICOM file ({type(error).__name__})", damaged=True) from error
    if directory:
        raise UnreadableError(DIRECTORY, damaged=False)
    if unknown:
        raise UnreadableError(
            "a damaged DICOM file (no SOPClassUID)" if has_magic else "not a DICOM file", damaged=has_magic
        )
    return dataset


def _looks_bare(start: bytes) -> bool:
    """Whether this may be a data set without preamble and file meta information, as some archives store them."""
    return len(start) > 16 and start[:2] == b"\x08\x00" and start[3:4] == b"\x00" and start[2] < 0x20


def _check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated data set that would unpack to more than the limit: pydicom unpacks all at once."""
    meta = file.read(4096)
    start = 144 + int.from_bytes(meta[140:144], "little")  # behind (0002,0000), the length of the file meta information
    if DeflatedExplicitVRLittleEndian.encode() in meta[:start]:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        file.seek(start)
        content, total = file.read(), 0
        while content and total <= MAX_DEFLATED_BYTES:
            total += len(unpacker.decompress(content, 2**24))
            content = unpacker.unconsumed_tail
        if total > MAX_DEFLATED_BYTES:
            raise ValueError("unpacked, the file is larger than the limit")
    file.seek(0)
