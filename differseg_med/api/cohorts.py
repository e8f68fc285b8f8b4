"""Cohort tables, volumes and labels from Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from differseg_med.case import Cohort
from differseg_med.cohort import table as tables
from differseg_med.cohort.check.check import Check, check_cohort, write_check
from differseg_med.cohort.scan.choose import Naming, Scan, Unit
from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.scan.scan import scan_folder, with_foreground, write_scan
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import load_volume
from differseg_med.progress import progress_bar, progress_shown


def scan(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    rules: str = "default",
    roi: str = "",
    modalities: Sequence[str] = (),
    foreground: str = "",
    case_id: Naming | str = Naming.NUMBER,
    case_per: Unit | str = Unit.STUDY,
    resample: bool = False,
    progress: bool = False,
) -> Scan:
    """Find the images and labels in a folder, and write the cohort table ``out``, ``audit.csv`` and ``audit.html``.

    Args:
        folder: folder or zip archive of DICOM, NIfTI, NRRD or MHA files.
        out: the table to write; None writes nothing.
        rules: rule file, or ``default``, ``mr``, ``ct``, ``pet``.
        roi: regex: which ROI or segment is the label.
        modalities: only these, the reference first; default: all. The label is the one drawn on the reference.
        foreground: values of mask files that are the target, ``1,2``.
        case_id: number the cases, or name them by the patients' folders.
        case_per: a case is one examination, or all of a patient.
        resample: take tilted and uneven series too.
        progress: draw bars on a terminal.

    Raises:
        CaseError: if there is no such folder, or no image in it.
    """
    with progress_shown(progress):
        bar = partial(progress_bar, unit="file")
        naming, unit = Naming(case_id), Unit(case_per)
        options: dict[str, Any] = {"naming": naming, "unit": unit, "resample": resample, "modalities": modalities}
        found = scan_folder(folder, load_rules(rules), roi=roi, progress=bar, **options)
    if foreground:
        found = with_foreground(found, foreground)
    if out is not None:
        write_scan(found, out)
    return found


def check(
    cohort: str | Path,
    out: str | Path | None = None,
    *,
    modalities: Sequence[str] = (),
    alignment: bool = True,
    progress: bool = False,
) -> Check:
    """Read every file of a cohort; compare grids, places and labels; find patients on both sides of a split.

    Args:
        cohort: the table.
        out: folder for ``check.csv`` and ``check.html``; None writes nothing.
        modalities: columns to check, the reference first; default: all.
        alignment: compare where the images of a case lie (slow).
        progress: draw bars on a terminal.

    Raises:
        CaseError: if the table cannot be read.
    """
    with progress_shown(progress):
        bar = partial(progress_bar, unit="case")
        found = check_cohort(read_cohort(cohort, modalities), alignment=alignment, progress=bar)
    if out is not None:
        write_check(found, out)
    return found


def read_cohort(path: str | Path, modalities: Sequence[str] = ()) -> Cohort:
    """Read and check a cohort table; without ``modalities`` its columns before ``label`` are taken.

    Raises:
        CaseError: if it cannot be read; problems of single rows are attached to their cases.
    """
    return tables.read_cohort(path, tuple(modalities) or tables.table_modalities(path))


def read_volume(cell: str | Path) -> MetaTensor:
    """One image ``(1, H, W, D)`` float32 with its RAS affine (mm): NIfTI, NRRD, MHA, DICOM series, 2-D image.

    Raises:
        CaseError: if it cannot be read as one volume.
    """
    return load_volume(cell)


def read_label(cell: str | Path, images: Sequence[str | Path] = ()) -> MetaTensor:
    """One label ``(1, H, W, D)`` of 0 and 1 with its RAS affine: a mask file, DICOM SEG or RTSTRUCT with its selector.

    Args:
        cell: as in the column ``label`` of a cohort table.
        images: cells of the images that contours were drawn on; RTSTRUCT and SEG find their grid among them.

    Raises:
        CaseError: if it cannot be read, or its foreground is not clear.
    """
    return load_label(cell, list(images))
