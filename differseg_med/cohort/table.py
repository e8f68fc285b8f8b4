"""The cohort table: one CSV, one row per case, made to be opened in a spreadsheet.

Columns: ``case_id, subject_id, <one per modality>, label, split, fold`` and any others (site, scanner, age). A blank
modality cell means that the modality is absent. A cell is ``PATH`` or ``PATH::SELECTOR``: a file (NIfTI, NRRD, MHA,
picture) or DICOM (file, folder, zip archive), with the series, region or segment that is meant; see
`differseg_med.io.dicom.reader` and `differseg_med.io.labels`. Paths are relative to the table. What kind of image each
modality is stands beside it, see `differseg_med.cohort.kinds`.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from differseg_med.case import OWN_COLUMNS, Case, Cohort
from differseg_med.cohort.cells import Cells, id_problem, same_id
from differseg_med.cohort.kinds import check_kinds_file, compare_kinds, kinds_path, needs, read_kinds, write_kinds
from differseg_med.cohort.rows import SURPLUS, Row, read_rows
from differseg_med.errors import CaseError
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.modality import Modality, declared, label_of
from differseg_med.paths import same_name, unsafe
from differseg_med.tables import write_table


def read_cohort(path: str | Path, modalities: Sequence[str] | Mapping[str, Modality]) -> Cohort:
    """Read and check a cohort table, and what the file beside it says of the kinds of its modalities.

    Args:
        path: what a spreadsheet wrote: CSV in many ways, or a workbook; see `read_rows`.
        modalities: the modality columns to read, in the order that the network was declared with; as a bundle declares
            them, their kinds are compared with the cohort's, and hold where the cohort says nothing.

    A split written "Train" or "val" is the one that is meant, and "NA" in a cell of an image is a blank; one notice
    says so. Problems are attached to the cases that they concern: a row without an id or with one used twice to that
    row, a missing or misspelt column to all rows.

    Raises:
        CaseError: if the table or the file of kinds cannot be read at all (no such file, empty, not text, no column
            ``case_id``), or a modality is of another kind than the bundle declares.
    """
    path = Path(path)
    rows, columns = read_rows(path)
    needed = declared(modalities) if isinstance(modalities, Mapping) else {}
    kinds = _own_kinds(path, columns)
    compare_kinds(needed, kinds, path)
    problem = _column_problem(path, columns, modalities, kinds, needed)
    if problem is not None and "case_id" not in columns:
        raise problem
    counts = Counter(same_id(row.cells["case_id"]) for row in rows)
    cells = Cells(path.parent, tuple(modalities))
    known = {m: kinds.get(m) or needed[m].kind for m in modalities if m in kinds or m in needed}
    cases = []
    for row in rows:
        case_id = _usable_id(path, row, counts)
        # A copy for each row: an error remembers the case that it was reported for.
        own = copy.copy(problem) if problem else _row_problem(path, row, counts)
        case = _case(path, case_id, cells.meant(row.cells), tuple(modalities), own)
        cases.append(replace(case, kinds=known))
    cells.tell(path)
    return Cohort(path, tuple(modalities), tuple(cases), problem, known)


def _own_kinds(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """What the file beside the table says."""
    kinds = read_kinds(path)
    if strange := [name for name in kinds if name not in columns or name in OWN_COLUMNS]:
        raise CaseError(
            f"the file beside the table names a modality {strange[0]!r}, which the table does not have",
            file=kinds_path(path),
            expected=f"some of {[name for name in columns if name not in OWN_COLUMNS]}",
            remedy="Correct the name, or take the entry out.",
        )
    return kinds


def table_modalities(path: str | Path) -> tuple[str, ...]:
    """The modality columns of a table when no bundle declares them: those before ``label`` and those with a kind.

    Of a table without that column they are those in which a cell names a file or folder.

    Raises:
        CaseError: if the table, or the file of kinds beside it, cannot be read.
    """
    path = Path(path)
    rows, columns = read_rows(path)
    kinds = _own_kinds(path, columns)
    if "label" in columns:
        found = columns[: columns.index("label")]
    else:
        found = [name for name in columns if any(_names_image(row.cells.get(name, ""), path.parent) for row in rows)]
    return tuple(name for name in columns if name not in OWN_COLUMNS and (name in found or name in kinds))


def _names_image(cell: str, folder: Path) -> bool:
    from differseg_med.io.dicom.reader import ENDINGS  # these import torch, for which the command line does not wait
    from differseg_med.io.headers import VOLUMES
    from differseg_med.io.images2d import IMAGES

    path = split_cell(cell)[0]
    known = path.name.lower().endswith((*VOLUMES, *IMAGES, *ENDINGS))
    return bool(cell) and (known or (len(path.parts) > 1 and (folder / path).exists()))


def write_cohort(
    path: str | Path, modalities: Sequence[str], cases: Iterable[Case], kinds: Mapping[str, str] | None = None
) -> None:
    """Write a cohort table in one step; paths become relative to the table's folder.

    Args:
        path: the table.
        modalities: its modality columns.
        cases: its rows.
        kinds: kinds of modalities for the file beside the table. What that file says of other modalities of the table
            stays. None leaves the file as it is.

    Raises:
        CaseError: if another file has the name of the file beside the table; then nothing is written.
    """
    path = Path(path)
    if kinds is not None:
        check_kinds_file(path)
        known = {**read_kinds(path), **kinds}
        kinds = {name: known[name] for name in modalities if name in known}
    rows = []
    for case in cases:
        row = {"case_id": case.written_id or case.case_id, "subject_id": case.subject_id}
        row |= {m: relative_cell(case.images.get(m), path.parent) for m in modalities}
        row |= {"label": relative_cell(case.label, path.parent), "split": case.split, "fold": case.fold, **case.extra}
        rows.append(row)
    columns = list(dict.fromkeys(["case_id", "subject_id", *modalities, *OWN_COLUMNS, *(k for r in rows for k in r)]))
    write_table(path, columns, rows)
    if kinds or (kinds is not None and kinds_path(path).is_file()):
        write_kinds(path, kinds)


def _column_problem(
    path: Path,
    columns: list[str],
    modalities: Sequence[str] | Mapping[str, Modality],
    kinds: Mapping[str, str],
    needed: Mapping[str, Modality],
) -> CaseError | None:
    for name in modalities:
        if why := unsafe(name):
            hint = "Files are named after it: rename the column."
            return CaseError(f"column {name[:40]!r} cannot be part of a file name: {why}", file=path, remedy=hint)
    if "case_id" not in columns:
        others = {c.lower(): c for c in columns if c not in modalities and c not in OWN_COLUMNS}
        near = difflib.get_close_matches("case_id", others, n=1, cutoff=0.6)
        hint = (
            f"Rename column {others[near[0]]!r} to 'case_id'."
            if near
            else "Add it, with an id of its own for every row."
        )
        return CaseError("column 'case_id' is missing", file=path, found=f"columns {', '.join(columns)}", remedy=hint)
    for name in modalities:
        if name not in columns:
            return _modality_missing(path, name, columns, modalities, kinds, needed)
    for name in columns:
        # T1 and t1 would be one file on many disks.
        alike = [c for c in modalities if same_name(c) == same_name(name)]
        if name and (columns.count(name) > 1 or (name in modalities and len(alike) > 1)):
            return CaseError(f"column {name!r} is there twice", file=path, remedy="Keep the one that is right.")
        # A misspelt 'label' or 'split' would otherwise pass as one of the user's own columns.
        near = difflib.get_close_matches(name.lower(), OWN_COLUMNS, n=1, cutoff=0.8)
        if name not in OWN_COLUMNS and name not in modalities and near and near[0] not in columns:
            hint = f"Rename it to {near[0]!r}."
            return CaseError(f"column {name!r} looks like a misspelt {near[0]!r}", file=path, remedy=hint)
    return None


def _usable_id(path: Path, row: Row, counts: Counter[str]) -> str:
    """The id in the table, or one by the number of the row where it cannot be the name of a folder."""
    written = row.cells["case_id"]
    if written and id_problem(path, written) is None:
        return written
    name = f"row{row.number}"
    while same_id(name) in counts:
        name += "_"
    return name


def _modality_missing(
    path: Path,
    name: str,
    columns: Sequence[str],
    modalities: Iterable[str],
    kinds: Mapping[str, str],
    needed: Mapping[str, Modality],
) -> CaseError:
    """What is needed and what there is. A column that is called alike may be another sequence: it is not proposed."""
    others = [column for column in columns if column not in OWN_COLUMNS]
    same = next((column for column in others if column.casefold() == name.casefold()), None)
    add = f"Add column {name!r}, and leave its entries blank where the modality is absent."
    return CaseError(
        f"column {name!r} is missing",
        file=path,
        expected=needs({m: needed[m].kind for m in needed}) if needed else ", ".join(modalities),
        found=f"columns {', '.join(f'{c} ({label_of(kinds[c])})' if c in kinds else c for c in others)}",
        remedy=f"Rename column {same!r} to {name!r}: capital letters count." if same else add,
    )


def _row_problem(path: Path, row: Row, counts: Counter[str]) -> CaseError | None:
    case_id = row.cells["case_id"]
    if not case_id:
        return CaseError(f"row {row.number} has no case_id", file=path, remedy="Give every row an id of its own.")
    if surplus := row.cells.get(SURPLUS):
        return CaseError(
            f"row {row.number} has more entries than the header, so it is unclear which belongs to which column",
            case=case_id,
            file=path,
            found=f"{surplus!r} after the last column",
            remedy="Put quotes around entries that contain the separator.",
        )
    if (times := counts[same_id(case_id)]) > 1:
        return CaseError(
            f"the case id stands in {times} rows, so it is unclear which images belong to it",
            case=case_id,
            file=path,
            expected="ids that differ by more than capitals, a .0 at the end or the way an accent is stored",
            remedy="Give every row an id of its own.",
        )
    return id_problem(path, case_id)


def _case(path: Path, case_id: str, row: dict[str, str], modalities: Sequence[str], problem: CaseError | None) -> Case:
    known = {*OWN_COLUMNS, *modalities, SURPLUS}
    images = {m: path.parent / row[m] for m in modalities if row.get(m)}
    return Case(
        case_id=case_id,
        subject_id=row.get("subject_id") or case_id,
        images=images,
        label=path.parent / row["label"] if row.get("label") else None,
        split=row.get("split", ""),
        fold=row.get("fold", ""),
        extra={k: v for k, v in row.items() if k not in known},
        problem=problem,
        reference_images=tuple(images.values()),
        written_id=row["case_id"] if row["case_id"] != case_id else "",
    )


def relative_cell(target: str | Path | None, folder: Path) -> str:
    """The cell ``target`` as seen from ``folder``; if it is itself a link (data sets in DataLad), that link."""
    if target is None:
        return ""
    path, selector = split_cell(target)
    relative = Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve()))
    return join_cell(relative.as_posix(), selector)
