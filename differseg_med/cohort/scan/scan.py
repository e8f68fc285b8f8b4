"""``differseg-med cohort scan``: a tree of files to a cohort table and the audit of everything in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from differseg_med.cohort.availability import presence, text_table
from differseg_med.cohort.scan.choose import Naming, Scan, Unit, make_cohort
from differseg_med.cohort.scan.rules import Rules
from differseg_med.cohort.scan.sources import Source, attach_files, dicom_sources, file_sources
from differseg_med.cohort.table import relative_cell, write_cohort
from differseg_med.errors import CaseError, printable, private
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.io.dicom.index import index_folder
from differseg_med.io.headers import is_volume_file
from differseg_med.io.slicer_header import is_segmentation
from differseg_med.reports.cohort import write_audit_page
from differseg_med.runs.names import MANIFEST
from differseg_med.runs.ours import OwnResults
from differseg_med.runs.stamps import files_of
from differseg_med.runs.tables import written_table
from differseg_med.tables import write_table

AUDIT_COLUMNS = ("path", "series", "case_id", "column", "level", "reason", "cell")


def scan_folder(
    root: str | Path,
    rules: Rules,
    *,
    roi: str = "",
    naming: Naming = Naming.NUMBER,
    unit: Unit = Unit.STUDY,
    resample: bool = False,
    salt: str = "",
    modalities: Sequence[str] = (),
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Scan:
    """Find the cohort in a tree of DICOM or volume files; nothing is written.

    Args:
        root: folder, or zip archive of DICOM files.
        rules: which series or file is which modality.
        roi, naming, unit, salt, modalities: see `differseg_med.cohort.scan.choose.make_cohort`.
        resample: take tilted and unevenly spaced DICOM series, to be interpolated whenever they are read.
        progress: wraps the files, for example ``tqdm``.

    Raises:
        CaseError: if there is no such folder, or no image in it that a rule fits; with what was found instead.
    """
    # Not resolve(): data sets in DataLad are links to files with other names.
    root = Path(os.path.abspath(root))  # noqa: PTH100
    series = list(dicom_sources(index_folder(root, progress), root, rules, resample=resample))
    files = attach_files(list(file_sources(root, rules)), series) if root.is_dir() else []
    ours = OwnResults(root)
    found = [_without_ours(source, ours) for source in (*series, *files)]
    scan = make_cohort(found, rules, roi=roi, naming=naming, unit=unit, salt=salt, modalities=modalities)
    if not scan.audit:
        raise CaseError("there is no DICOM, NIfTI, NRRD or MetaImage file in this folder", file=root)
    return scan


def with_foreground(scan: Scan, values: str) -> Scan:
    """The scan with the values that are the target in the cells of labels that are mask files: ``PATH::1,2``.

    Labels that name a region or a segment already stay as they are.

    Raises:
        CaseError: if there is no such label.
    """
    cases = [
        replace(case, label=Path(join_cell(case.label, values))) if case.label and _is_mask(case.label) else case
        for case in scan.cases
    ]
    if cases == list(scan.cases):
        problem, remedy = "no case has a mask file as its label", "Leave --foreground out; --roi chooses among ROIs."
        raise CaseError(problem, expected=f"labels with the value {values}", remedy=remedy)
    return replace(scan, cases=tuple(cases))


def _is_mask(cell: Path) -> bool:
    path, selector = split_cell(cell)
    return not selector and is_volume_file(path) and not is_segmentation(path)


def _without_ours(source: Source, ours: OwnResults) -> Source:
    """The source, ignored if it is a result of this program: a prediction is no expert's label."""
    if split_cell(source.cell)[0] not in ours:
        return source
    return replace(source, role="ignored", level="ok", reason=f"a result of this program ({MANIFEST}), no data")


def write_scan(scan: Scan, out: str | Path, *, force: bool = False) -> None:
    """Write the table ``out``, and beside it the kinds of its modalities, ``audit.csv`` and ``audit.html``.

    Raises:
        CaseError: if ``out`` was made or changed by hand and ``force`` is not given, or is a file that was found.
    """
    out = Path(out)
    cells = dict.fromkeys(source.cell for _, source in scan.audit)
    inputs = [path for cell in cells for path in files_of(cell) if path.suffix not in (".csv", ".html", ".json")]
    with written_table(out, "scan", inputs, force=force):
        _write(scan, out)


def _write(scan: Scan, out: Path) -> None:
    write_cohort(out, scan.modalities, scan.cases, scan.kinds)
    lines = []
    for case, source in scan.audit:
        cell = "" if source.level == "error" else relative_cell(source.cell, out.parent)
        row = (source.path, source.series, case, _column(source), source.level, source.reason, cell)
        lines.append(dict(zip(AUDIT_COLUMNS, row)))
    write_table(out.parent / "audit.csv", AUDIT_COLUMNS, lines)
    _write_page(scan, out.parent / "audit.html")


def summary_lines(scan: Scan) -> list[str]:
    """What a scan found, for the terminal: the table of `presence`, then errors and warnings."""
    lines = [f"{len(scan.cases)} cases"]
    if scan.cases:
        lines += text_table(presence(scan.cases, scan.modalities))
    for level in ("error", "warning"):
        for case, series, reason in _findings(scan, level):
            words = private(f"{series}: {reason}", _without_names(scan, f"{series}: {reason}"))
            lines.append(f"{level}: {f'{case}, ' if case else ''}{words}")
    return lines


def _without_names(scan: Scan, text: str) -> str:
    """The text without descriptions of series, names of regions and of files, which the audit has."""
    names = {name for _, source in scan.audit for name in (source.series, source.path, source.roi) if name}
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "a series or file (see audit.csv)") if len(name) > 2 else text
    return printable(text)


def _findings(scan: Scan, level: str, *, parts_only: bool = False) -> list[tuple[str, str, str]]:
    """Case, series and reason of what has a level; one line for all of one reason, or only for parts of one series."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for case, source in scan.audit:
        if source.level == level:
            series = (source.series_uid or source.cell) if parts_only else ""
            alike.setdefault((case, source.reason, series), []).append(source.series)
    more = " more parts of the series" if parts_only else " more"
    return [
        (case, found[0] + (f" and {len(found) - 1}{more}" if len(found) > 1 else ""), reason)
        for (case, reason, _), found in alike.items()
    ]


def _column(source: Source) -> str:
    return "label" if source.role == "label" else source.modality


def _write_page(scan: Scan, path: Path) -> None:
    levels: Counter[str] = Counter(source.level for _, source in scan.audit)
    lead = (
        f"{len(scan.cases)} cases. Of {len(scan.audit)} series, segmentations and files {levels['error']} have an "
        f"error and got no entry in the table, {levels['warning']} deserve a look, {levels['ok']} are in order."
    )
    told = {
        level: [f"{f'{c}: ' if c else ''}{series}: {why}" for c, series, why in _findings(scan, level, parts_only=True)]
        for level in ("error", "warning")
    }
    rows = presence(scan.cases, scan.modalities) if scan.cases else []
    every = [(case, s.series, _column(s), s.level, s.reason) for case, s in scan.audit]
    write_audit_page(path, lead, rows, told, levels, every)
