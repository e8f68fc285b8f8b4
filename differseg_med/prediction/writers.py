"""Other formats of a mask: for each case of a run, or for a mask that is already there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from differseg_med.atomic import sweep
from differseg_med.case import Case
from differseg_med.errors import CaseError, os_problem
from differseg_med.export.bids import subjects
from differseg_med.export.formats import onto_reference
from differseg_med.export.registry import FORMATS, Format
from differseg_med.export.segment import SegmentInfo, read_segment
from differseg_med.export.segmented import Notes, Segmented
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.dicom.reader import is_dicom
from differseg_med.io.headers import is_volume_file, read_header
from differseg_med.io.labels import load_label
from differseg_med.io.volumes import file_grid, load_volume
from differseg_med.io.voxels import check_body
from differseg_med.keys import NOTES
from differseg_med.metrics.case import binary
from differseg_med.modality import display_windows
from differseg_med.prediction.result import CaseResult, CaseWriter
from differseg_med.reports.overlay import closest_ras, save_overlay
from differseg_med.runs.folder import occupied
from differseg_med.runs.manifest import Step, recording
from differseg_med.runs.stamps import files_of, stamp
from differseg_med.transforms.grids import grid_of, restore_grid

logger = logging.getLogger(__name__)

EXPORT = "export"
"""Name of the step in the manifest."""

_NAMED = 5
"""Cases that a message names."""

MASK_FORMAT = "nifti"
"""The format that every run writes anyway."""


@dataclass(frozen=True)
class FormatWriter:
    """Writes one more format of each case of a run.

    Args:
        name: one of `RUN_FORMATS`.
        segment: what the masks show.
        names: of the cases in BIDS, see `reserve`.
    """

    name: str
    segment: SegmentInfo
    names: dict[str, str] = field(default_factory=dict, compare=False)

    def reserve(self, case_ids: Sequence[str]) -> None:
        """Choose names for all cases of a run that differ in a BIDS data set, where they lie in one folder."""
        self.names.clear()
        self.names.update(subjects(case_ids))

    def foresee(self, cases: Sequence[Case], reference: str) -> None:
        """Say before the first case of which cases this format cannot be written, however the mask will be.

        Args:
            cases: of the run.
            reference: the declared reference; in its place stands the first modality that a case has.
        """
        if not RUN_FORMATS[self.name].needs_dicom:
            return
        used = {c.case_id: c.images.get(reference, next(iter(c.images.values()), None)) for c in cases if not c.problem}
        without = [case_id for case_id, cell in used.items() if cell is not None and not is_dicom(cell)]
        if without:
            more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
            names = f"{', '.join(without[:_NAMED])}{more}"
            logger.warning("%s: %s is no DICOM, so this is not written for %s", self.name, reference, names)

    def __call__(self, result: CaseResult, folder: Path) -> Mapping[str, object]:
        """Write it into the case's folder; BIDS masks of all cases go into one data set beside the cases.

        Raises:
            CaseError: if it cannot be written.
        """
        if RUN_FORMATS[self.name].needs_dicom and not is_dicom(result.case.images[result.reference]):
            return {self.name: f"not written: {result.reference} is no DICOM"}
        made_from = result.made_from.encode("ascii", "replace").decode("ascii")
        description = "; ".join(filter(None, (self.segment.description, made_from)))
        segmented = Segmented(
            result.mask,
            result.grid,
            replace(self.segment, description=description),
            result.case.images,
            result.reference,
            result.case.case_id,
            result.probability,
            result.case.kinds,
            self.names.get(result.case.case_id, ""),
            result.threshold,
        )
        file, notes = write_format(self.name, segmented, folder.parent if self.name == "bids" else folder)
        for note in notes:
            logger.warning("case %s: %s: %s", result.case.case_id, file, note)
        return {self.name: "; ".join([file, *notes])}


def write_format(name: str, segmented: Segmented, folder: str | Path) -> tuple[str, Notes]:
    """Write one format into a folder.

    Args:
        name: one of `RUN_FORMATS`.
        segmented: the mask.
        folder: where to; the file's name is fixed.

    Returns:
        Name of the file, and notes for the user.

    Raises:
        CaseError: as `save_mask`, or if there is no format of this name.
    """
    if name not in RUN_FORMATS:
        raise CaseError(f"there is no format {name!r}", expected=f"some of {', '.join(RUN_FORMATS)}")
    chosen = RUN_FORMATS[name]
    return chosen.file, chosen.write(segmented, Path(folder) / chosen.file)


def _overlay(segmented: Segmented, path: Path) -> Notes:
    affine = segmented.grid.affine
    image = load_volume(segmented.images[segmented.reference])
    background, spacing_mm = closest_ras(restore_grid(image, segmented.grid)[0].numpy(), affine)
    mask = closest_ras(segmented.mask, affine)[0]
    windows = display_windows(segmented.kinds)
    backgrounds = {segmented.reference: background}
    save_overlay(backgrounds, mask, path, spacing_mm=spacing_mm, title=segmented.case_id, windows=windows)
    return []


RUN_FORMATS = {**FORMATS, "png": Format("overlay.png", _overlay)}
"""All formats by name: those of `differseg_med.export`, and what is drawn."""


def format_writers(formats: Sequence[str], bundle: str | Path) -> list[CaseWriter]:
    """Writers for a run's formats, with what the bundle's metadata says of the masks.

    Raises:
        CaseError: for a format that does not exist, or metadata that cannot be read.
    """
    others = [name for name in in_order(formats) if name != MASK_FORMAT]
    segment = read_segment(bundle) if others else None
    return [FormatWriter(name, segment) for name in others if segment is not None]


def export_mask(
    mask: str,
    reference: str,
    formats: Sequence[str],
    folder: Path,
    segment: SegmentInfo,
    *,
    case_id: str = "",
    resample: bool = False,
) -> list[CaseError]:
    """Write a mask that is already there in other formats. One that fails does not keep the others from being written.

    Args:
        mask: a mask as the column ``label`` of a cohort table takes it: a file, ``SEG::segment``, ``RTSTRUCT::ROI``.
        reference: cell of the image that the mask belongs to.
        formats: names in `RUN_FORMATS`.
        folder: where to.
        segment: what the mask shows.
        case_id: for titles and BIDS names.
        resample: whether a mask on another grid than the reference may be resampled.

    Returns:
        What went wrong, by format.

    Raises:
        CaseError: if mask or reference cannot be read, or they do not fit together.
    """
    formats = in_order(formats)
    for cell in (mask, reference):  # before anything is made: a slip in a path leaves no folder behind
        if not split_cell(cell)[0].exists():
            raise CaseError("there is no such file", file=split_cell(cell)[0], remedy="Check the path.")
    inputs = [path for cell in (mask, reference) for path in (split_cell(cell)[0], *_beside(cell))]
    with occupied(folder, inputs, deep=False):
        step = Step.now({}, {case_id or "mask": {"mask": stamp(mask), "reference": stamp(reference)}})
        with recording(folder, EXPORT, step):
            return _export(mask, reference, formats, folder, segment, case_id, resample, step)


def _beside(cell: str) -> list[Path]:
    """The files of voxels beside a header."""
    return [] if split_cell(cell)[0].is_dir() else files_of(cell)[1:]


def _export(
    mask: str,
    reference: str,
    formats: Sequence[str],
    folder: Path,
    segment: SegmentInfo,
    case_id: str,
    resample: bool,
    step: Step,
) -> list[CaseError]:
    label, grid = load_label(mask, [reference]), file_grid(reference)
    file = split_cell(mask)[0]
    voxels = binary(label[0].numpy(), "exported", file).view(np.uint8)
    doubts = [*_named(mask, label.meta.get(NOTES, ())), *_named(reference, _doubts(reference))]
    placed, notes = onto_reference(voxels, grid_of(label), grid, resample=resample, file=file)
    notes = [*doubts, *notes]
    modality = "image"
    segmented = Segmented(placed, grid, segment, {modality: reference}, modality, case_id)
    for note in notes:
        logger.warning("%s", note)
    problems = []
    for name in formats:
        try:
            written, notes = write_format(name, segmented, folder)
            place = folder / written
            sweep(place if place.is_dir() else place.parent, deep=False)  # what a killed run left in a format's folder
        except (CaseError, OSError) as error:  # a name too long for the disk: other formats may have a shorter one
            problem = os_problem(error) if isinstance(error, OSError) else error
            logger.error("%s: %s", name, problem)
            problems.append(problem)
        else:
            step.results[written] = ""
            logger.info("%s", "; ".join([f"{name}: {written}", *notes]))
    return problems


def _doubts(reference: str) -> list[str]:
    """What is doubtful about the header of a reference.

    Raises:
        CaseError: if its voxels are damaged: then its header may be, too.
    """
    path = split_cell(reference)[0]
    if is_dicom(reference) or not is_volume_file(path):
        return []
    header = read_header(path)
    check_body(header)
    return header.notes


def _named(cell: str, notes: Iterable[str]) -> list[str]:
    return [f"{split_cell(cell)[0].name}: {note}" for note in notes]


def in_order(formats: Sequence[str]) -> list[str]:
    """The formats, each once, and before each the one that it refers to.

    Raises:
        CaseError: for one that does not exist.
    """
    if unknown := [name for name in formats if name not in RUN_FORMATS]:
        raise CaseError(f"unknown formats {unknown}", expected=f"some of {', '.join(RUN_FORMATS)}")
    pairs = [(RUN_FORMATS[name].needs, name) for name in formats]
    return [name for name in dict.fromkeys(name for pair in pairs for name in pair) if name]
