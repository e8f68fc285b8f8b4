"""A table as people save it, read as rows of text: separators, encodings, remarks on top, workbooks."""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from differseg_med.errors import CaseError
from differseg_med.tables import unguarded

#: Where the cells of a row go that has more of them than the header.
SURPLUS = "\0surplus"

ID = "case_id"
"""The column that tells the header of a cohort table from any other line."""

DELIMITERS = (",", ";", "\t", "|")
_AS_CSV = "Save it from the spreadsheet as CSV (UTF-8)."
_WORKBOOK, _OLD_WORKBOOK = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"


@dataclass(frozen=True)
class Row:
    """One row: the number that the spreadsheet shows, and its cells by column, without spaces around them."""

    number: int
    cells: dict[str, str]


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a table that hold anything, and its columns.

    Understood are commas, semicolons, tabs and bars, Excel's line ``sep=;``, UTF-8 and UTF-16 with or without a byte
    order mark, blank lines and lines of remarks (``#``) above the header, and workbooks (``.xlsx``, the first sheet),
    whatever the file is called.

    Raises:
        CaseError: if the table cannot be read at all, with what to do: no such file, empty, another encoding, damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CaseError("there is no cohort table here", file=path, remedy="Check the path given as cohort.") from error
    except OSError as error:
        raise CaseError("the cohort table cannot be read", file=path, found=error.strerror) from error
    if content.startswith(_OLD_WORKBOOK):
        raise CaseError("the cohort table is a workbook of an old Excel (.xls)", file=path, remedy=_AS_CSV)
    lines = _workbook(path, content) if content.startswith(_WORKBOOK) else _lines(_text(path, content))
    try:
        rows, columns = _under_header(lines)
    except csv.Error as error:  # a cell of megabytes
        raise CaseError(
            "the cohort table is not a CSV file", file=path, found=str(error), remedy="Look for a quote left open."
        ) from error
    if not rows:
        raise CaseError("the cohort table has no rows", file=path, expected="a header and one row per case")
    return rows, columns


def _text(path: Path, content: bytes) -> str:
    """Decode; only encodings that can be told for sure."""
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif content[1::2].count(0) > len(content) // 4:  # every second byte of Latin text: UTF-16 without its mark
        encoding = "utf-16-le"
    elif content[::2].count(0) > len(content) // 4:
        encoding = "utf-16-be"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CaseError(
            "the cohort table is not a UTF-8 text file, so its letters can only be guessed",
            file=path,
            found=f"byte {content[error.start]:#04x} in line {line}",
            remedy=_AS_CSV,
        ) from error


def _lines(text: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Line number and cells of each row, from the header on."""
    start, delimiter = 0, ""
    lines = text.splitlines(keepends=True)
    while start < len(lines) and _is_preamble(lines[start]):
        if lines[start].strip().lower().startswith("sep="):
            delimiter = lines[start].strip("\r\n")[len("sep=") :][:1]
        start += 1
    rest = "".join(lines[start:])
    reader = csv.reader(io.StringIO(rest.replace("\0", "\ufffd")), delimiter=delimiter or _delimiter(rest))
    before = 0
    for cells in reader:
        yield start + before + 1, cells
        before = reader.line_num


def _is_preamble(line: str) -> bool:
    """Whether a line above the header says nothing of a case: blank, ``sep=;``, or a remark."""
    text = line.strip().strip(',;\t|"').strip()
    return not text or text.lower().startswith("sep=") or (text.startswith("#") and ID not in text)


def _delimiter(text: str) -> str:
    """The separator that gives the header its columns; among several that which finds the column of ids."""
    header = text.split("\n", 1)[0]

    def fits(delimiter: str) -> tuple[bool, int]:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return ID in [cell.strip(' \t\r#"') for cell in cells], len(cells)

    return max(DELIMITERS, key=fits)


def _workbook(path: Path, content: bytes) -> Iterator[tuple[int, Sequence[str]]]:
    """Row number and cells of the first sheet of a workbook."""
    try:
        openpyxl = import_module("openpyxl")
    except ImportError as error:
        remedy = f'pip install "differseg-med[xlsx]", or: {_AS_CSV}'
        raise CaseError("the cohort table is an Excel workbook", file=path, remedy=remedy) from error
    try:
        sheets = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets
        rows = list(sheets[0].iter_rows(values_only=True))
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, EOFError, OSError, SyntaxError) as error:
        problem = "the cohort table is a damaged Excel workbook, or another archive"
        raise CaseError(problem, file=path, remedy=_AS_CSV) from error
    for number, cells in enumerate(rows, start=1):
        texts = [_cell(cell) for cell in cells]
        if any(texts) and not _is_preamble(",".join(texts)):
            yield number, texts


def _cell(value: Any) -> str:
    """A cell of a workbook as text; whole numbers without a point, as the spreadsheet shows them."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _under_header(lines: Iterator[tuple[int, Sequence[str]]]) -> tuple[list[Row], list[str]]:
    columns: list[str] = []
    rows = []
    for number, cells in lines:
        texts = [unguarded(cell.strip()) for cell in cells]
        if not columns:
            columns = [text.lstrip("# ") if text.lstrip("# ") == ID else text for text in texts]
            while columns and not columns[-1]:  # spreadsheets write empty columns at the end
                columns.pop()
        elif any(texts):
            named = {name: text for name, text in zip(columns, texts) if name}
            rows.append(Row(number, {**dict.fromkeys(filter(None, columns), ""), **named}))
            if surplus := "".join(texts[len(columns) :]):
                rows[-1].cells[SURPLUS] = surplus
    return rows, columns
