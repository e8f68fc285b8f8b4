"""``differseg-med cohort check``: are the files readable, do the images of a case fit together, does a split leak?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.availability import presence, text_table
from differseg_med.cohort.check.alignment import check_alignment
from differseg_med.cohort.kinds import kinds_path, question, table_files, unknown_kinds
from differseg_med.cohort.leaks import content_key, image_leaks, patient_leaks, subject_leaks
from differseg_med.errors import CaseError, Finding, Level
from differseg_med.grids import audit_grids
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.dicom.reader import find_part, is_dicom
from differseg_med.io.headers import is_volume_file, read_header
from differseg_med.io.itk import as_image
from differseg_med.io.labels import load_case_label
from differseg_med.io.slicer_header import is_segmentation
from differseg_med.io.volumes import load_volume
from differseg_med.keys import LABEL, NOTES
from differseg_med.modality import KINDS, contradicts_dicom, label_of
from differseg_med.reports.cohort import write_check_page
from differseg_med.runs.folder import occupied
from differseg_med.runs.stamps import inputs_of
from differseg_med.tables import write_table
from differseg_med.transforms.grids import check_label, grid_of

FINDING_COLUMNS = ("case_id", "column", "level", "message", "remedy")
IDENTITIES = ("PatientID", "StudyInstanceUID")
SOUND = "No errors and no warnings."
_READ = "Repair or replace the file, or leave the entry blank: the case is then used without it."


@dataclass
class Check:
    """What was found out about a cohort.

    Args:
        cohort: as checked.
        findings: about cases and columns, in the order of the table; leaks at the end.
        label_ml: volume of each case's label in ml.
        keys: `content_key` by case id and column.
        identities: values of the attributes `IDENTITIES` of DICOM images by case id and column. Not for reports.
    """

    cohort: Cohort
    findings: list[Finding] = field(default_factory=list)
    label_ml: dict[str, float] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    identities: dict[str, dict[tuple[str, str], str]] = field(default_factory=lambda: {name: {} for name in IDENTITIES})

    def level(self, case_id: str) -> Level:
        """The worst level of a case's findings."""
        levels = {finding.level for finding in self.findings if finding.case == case_id}
        return "error" if "error" in levels else "warning" if "warning" in levels else "ok"

    def worse_than_ok(self) -> list[Finding]:
        """Errors, then warnings."""
        return [f for level in ("error", "warning") for f in self.findings if f.level == level]

    def warnings_and_errors(self) -> list[tuple[Level, str]]:
        """The same in words: where, what, and what to do."""
        found = self.worse_than_ok()
        places = [", ".join(word for word in (f.case, f.column) if word) for f in found]
        return [(f.level, f"{place}: {f.text}. {f.remedy}") for f, place in zip(found, places)]


def check_cohort(
    cohort: Cohort,
    *,
    reference: str | None = None,
    alignment: bool = True,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Check:
    """Read every file of a cohort and judge it; one case is in memory at a time.

    Args:
        cohort: the table.
        reference: modality whose grid the masks have; default: the first of the table.
        alignment: also compare where the modalities of a case lie (a second or two per pair).
        progress: wraps the cases, for example ``tqdm``.
    """
    check = Check(cohort)
    for case in progress(cohort.cases):
        if case.problem is not None:
            check.findings.append(_error(case, "", case.problem))
        else:
            _check_case(check, case, reference or next(iter(cohort.modalities), ""), alignment)
    if alignment:
        check.findings += _ask_kinds(cohort)
    check.findings += subject_leaks(cohort.cases)
    check.findings += patient_leaks(cohort.cases, check.identities)
    check.findings += image_leaks(cohort.cases, check.keys)
    return check


def _check_case(check: Check, case: Case, declared: str, alignment: bool) -> None:
    if not case.images:
        remedy = "Fill in a modality, or take the row out of the table."
        check.findings.append(Finding("error", "the case has no image", remedy, case=case.case_id))
        return
    volumes: dict[str, MetaTensor] = {}
    for modality, cell in case.images.items():
        try:
            volumes[modality] = run_for_case(load_volume, cell, case)
            _ask_dicom(check, case, modality, cell, volumes[modality])
            _ask_header(check, case.case_id, modality, cell, volumes[modality])
        except CaseError as error:
            check.findings.append(_error(case, modality, error))
    if not volumes:
        found = Finding("error", "the case has no image that can be read", _READ, case=case.case_id)
        check.findings.append(found)
        return
    reference = declared if declared in volumes else next(iter(volumes))
    grids = {modality: grid_of(volume) for modality, volume in volumes.items()}
    findings = audit_grids(grids, reference, case=case.case_id, files=case.images)
    check.findings += findings
    check.keys |= {(case.case_id, m): content_key(np.asarray(volume)) for m, volume in volumes.items()}
    check.findings += [
        Finding(
            "warning",
            "every voxel has the same value",
            "Leave the entry blank if there is no image.",
            case=case.case_id,
            column=m,
        )
        for m in volumes
        if not check.keys[case.case_id, m]
    ]
    if case.label is not None:
        _check_label(check, case, volumes, reference, declared)
    broken = {finding.column for finding in findings if finding.level == "error"}
    if alignment and len(volumes) > 1:
        images = {m: as_image(np.asarray(v[0]), grids[m].affine) for m, v in volumes.items() if m not in broken}
        check.findings += check_alignment(images, case.case_id, kinds=case.kinds)


def _ask_kinds(cohort: Cohort) -> list[Finding]:
    """One question for the whole table, if pairs of images could not be judged because their kind is not known."""
    pairs = [set(case.images) for case in cohort.cases if len(case.images) > 1]
    unknown = [name for name in unknown_kinds(cohort) if any(name in pair for pair in pairs)]
    if not unknown:
        return []
    words = (
        f"nothing says what kind of image {', '.join(unknown)} holds: whether the images are registered was not checked"
    )
    remedy = f"Say it once: {question(cohort.path, unknown)}; KIND is one of {', '.join(KINDS)}."
    return [Finding("warning", words, remedy)]


def _ask_dicom(check: Check, case: Case, modality: str, cell: Path, volume: MetaTensor) -> None:
    """What DICOM says beside the voxels: who it is, what is doubtful, and whether it is another kind of image."""
    if is_dicom(cell):
        part, _, _ = find_part(cell)
        tags, look = part.frames[0].header.tags, "Look at the image before you use it."
        check.findings += [
            Finding("warning", doubt, look, case=case.case_id, column=modality, file=cell) for doubt in part.doubts
        ]
        # What the reader did with it, as a prediction would say it: how SUV were made, for example.
        notes = (note for note in volume.meta.get(NOTES, ()) if note not in part.doubts)
        check.findings += [Finding("ok", note, case=case.case_id, column=modality, file=cell) for note in notes]
        for name, values in check.identities.items():
            values[case.case_id, modality] = str(tags.get(name, ""))
        kind, said = case.kinds.get(modality), str(tags.get("Modality", ""))
        if kind is not None and contradicts_dicom(kind, said):
            words = f"the column holds {label_of(kind)}, but DICOM says that this image is {said}"
            remedy = f"Enter the right image, or correct {kinds_path(check.cohort.path).name}."
            check.findings.append(Finding("error", words, remedy, case=case.case_id, column=modality, file=cell))


def _ask_header(check: Check, case_id: str, column: str, cell: Path, volume: MetaTensor) -> None:
    """What is doubtful about a file that is not DICOM: its header, and voxels without data."""
    path = split_cell(cell)[0]
    if is_dicom(cell) or is_segmentation(path):
        return
    found = read_header(path).findings if is_volume_file(path) else ()
    told = {finding.text for finding in found}
    check.findings += [replace(finding, case=case_id, column=column, file=cell) for finding in found]
    look = "Look at the image before you use it."
    notes = (note for note in volume.meta.get(NOTES, ()) if note not in told)
    check.findings += [Finding("warning", note, look, case=case_id, column=column, file=cell) for note in notes]


def _check_label(check: Check, case: Case, volumes: Mapping[str, MetaTensor], reference: str, declared: str) -> None:
    try:
        label = run_for_case(load_case_label, case, case)
        run_for_case(lambda mask: check_label(mask, grid_of(volumes[reference]), reference, declared), label, case)
    except CaseError as error:
        check.findings.append(_error(case, LABEL, error))
        return
    voxels = np.asarray(label[0])
    check.label_ml[case.case_id] = float(voxels.sum()) * grid_of(label).voxel_volume_mm3 / 1000
    check.keys[case.case_id, LABEL] = content_key(voxels)
    look = "Look at the label on its image."
    check.findings += [
        Finding("warning", note, look, case=case.case_id, column=LABEL) for note in label.meta.get(NOTES, ())
    ]
    if not voxels.any():
        found = Finding(
            "warning", "the label is empty", "Check that this patient has no target.", case=case.case_id, column=LABEL
        )
        check.findings.append(found)


def _error(case: Case, column: str, error: CaseError) -> Finding:
    """The error as a finding; case and file have columns of their own."""
    words = CaseError(error.problem, expected=error.expected, found=error.found)
    return Finding("error", str(words), error.remedy or _READ, case=case.case_id, column=column, file=error.file)


def case_rows(check: Check) -> list[dict[str, object]]:
    """One row per case, for readers: what it has, and whether it is in order."""
    rows = []
    for case in check.cohort.cases:
        volume = check.label_ml.get(case.case_id)
        found = Counter(f.level for f in check.findings if f.case == case.case_id)
        rows.append(
            {
                "case": case.case_id,
                "subject": case.subject_id,
                "split": case.split,
                "fold": case.fold,
                "modalities": case.modalities,
                "label (ml)": "" if volume is None else f"{volume:.1f}",
                "errors": found["error"],
                "warnings": found["warning"],
            }
        )
    empty = [name for name in ("split", "fold") if not any(row[name] for row in rows)]
    return [{key: value for key, value in row.items() if key not in empty} for row in rows]


def report_lines(check: Check) -> list[str]:
    """The check for the terminal."""
    cohort = check.cohort
    lines = ["Which cases have what", *text_table(presence(cohort.cases, cohort.modalities)), ""]
    lines += ["Cases", *text_table(case_rows(check))]
    return [*lines, "", *([f"{level}: {text}" for level, text in check.warnings_and_errors()] or [SOUND])]


def write_check(check: Check, out_dir: str | Path) -> None:
    """Write ``check.csv`` (every finding, those in order too) and ``check.html``."""
    inputs = [*table_files(check.cohort.path), *(path for case in check.cohort.cases for path in inputs_of(case))]
    with occupied(out_dir, inputs, deep=False):
        _write(check, out_dir)


def _write(check: Check, out_dir: str | Path) -> None:
    lines = ((f.case, f.column, f.level, f.text, f.remedy) for f in check.findings)
    write_table(Path(out_dir) / "check.csv", FINDING_COLUMNS, (dict(zip(FINDING_COLUMNS, line)) for line in lines))
    write_check_page(
        Path(out_dir) / "check.html",
        check.warnings_and_errors(),
        presence(check.cohort.cases, check.cohort.modalities),
        case_rows(check),
        [(f.case or "", f.column, f.level, f.text) for f in check.findings],
        SOUND,
    )


def label_volumes(cases: Sequence[Case], progress: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> dict[str, float]:
    """Volume of each label in ml by case id; cases without one are left out.

    Raises:
        CaseError: if a label cannot be read.
    """
    volumes = {}
    for case in progress(cases):
        if case.label is not None:
            label = run_for_case(load_case_label, case, case)
            volumes[case.case_id] = float(label.sum()) * grid_of(label).voxel_volume_mm3 / 1000
    return volumes
