"""Stamps of input files: equal as long as nobody has touched what a cell of the cohort table names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from differseg_med.case import Case
from differseg_med.guard import is_folder
from differseg_med.io.dicom.cells import split_cell
from differseg_med.runs.names import MANIFEST

HEADERS = (".nhdr", ".nrrd", ".mhd", ".mha")
"""Volumes whose voxels may lie in files of their own."""

_DATA_FILE = re.compile(
    rb"^(?:data ?file:|ElementDataFile *=) *(.*?)\r?$(.*)", re.IGNORECASE | re.MULTILINE | re.DOTALL
)
_HEADER_BYTES = 1 << 16


def stamp(cell: str | Path) -> str:
    """Changes when a file of a cell does, or which of its parts is meant; ``missing`` if there is no such file.

    Size, time of change and place on the disk of every file: also of the ``.raw`` of a header, of each slice of a
    series. The time of change (ctime) cannot be set, so that a copy with the old date is noticed. No file of an image
    is read for it, and nothing of a path goes into it.
    """
    path, selector = split_cell(cell)
    found = [f"{os.path.relpath(file, path)} {_stat(file)}" for file in files_of(cell)]
    text = "\n".join([selector, *sorted(found)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16] if found else "missing"


def case_stamps(case: Case) -> dict[str, str]:
    """The stamps of a case by column: its images, and those others of its row that its label may be drawn on."""
    stamps = {name: stamp(cell) for name, cell in case.images.items()}
    others = [cell for cell in case.reference_images if cell not in case.images.values()]
    return stamps | {f"other image {number}": stamp(cell) for number, cell in enumerate(others, start=1)}


def files_of(cell: str | Path) -> list[Path]:
    """All files that a cell is read from; none if there is none. Our own results in a folder are no part of it."""
    path, _ = split_cell(cell)
    if is_folder(path):
        return list(_below(path))
    try:
        if not path.is_file():
            return []
        return [path, *_data_files(path)] if path.name.lower().endswith(HEADERS) else [path]
    except (OSError, ValueError):  # a name too long, no permission: the case says so when it is read
        return []


def inputs_of(case: Case) -> Iterator[Path]:
    """What of a case must not be written: files, and folders whose files are one input."""
    for cell in dict.fromkeys((*case.images.values(), *case.reference_images, *filter(None, [case.label]))):
        path, _ = split_cell(cell)
        yield path
        if not is_folder(path):
            yield from files_of(cell)[1:]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content; empty if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_hash() -> str:
    """SHA-256 of the package's code between a file and a mask: reading, preprocessing, network, postprocessing."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for part in (
        "geometry.py",
        "grids.py",
        "components.py",
        "inferers.py",
        "tiles.py",
        "io",
        "transforms",
        "networks",
        "backends",
    ):
        files = [package / part] if part.endswith(".py") else sorted((package / part).rglob("*.py"))
        for file in files:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _stat(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        if MANIFEST in names and Path(root) != folder:
            folders.clear()
            continue
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _data_files(path: Path) -> list[Path]:
    """The files that a header of NRRD or MetaImage names."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    match = _DATA_FILE.search(re.split(rb"\r?\n\r?\n", header)[0])  # an empty line ends the header of NRRD
    if match is None or match[1].strip().upper() == b"LOCAL":
        return []
    first, *_ = match[1].decode("utf-8", "replace").split() or [""]
    if first.upper() == "LIST":
        names = match[2].decode("utf-8", "replace").splitlines()
        return [path.parent / name.strip() for name in names if name.strip()]
    if "%" in first:  # slices by a pattern: all that it can name
        return sorted(path.parent.glob(re.sub(r"%0?\d*d", "*", first)))
    return [path.parent / match[1].decode("utf-8", "replace").strip()]
