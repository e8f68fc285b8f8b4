"""The sample of a bundle: a few labelled cases, without what their files say beside the voxels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from differseg_med.atomic import write_text
from differseg_med.case import Case, Cohort
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError
from differseg_med.export.png import save_mask_png, save_png
from differseg_med.io.images2d import is_image
from differseg_med.io.labels import load_case_label
from differseg_med.io.nifti import save_volume
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.grids import grid_of

SAMPLE_FOLDER = "sample"
"""Folder of a bundle; its table is ``cohort.csv``."""

README = """# Sample

{count} of the cohort that this bundle was made with.

| case | the network was trained on it |
|---|---|
{rows}

The images are NIfTI (PET in SUV) or PNG and hold nothing but the voxels and their place. **Write here, before you give
the bundle away: where these images come from, their licence, and what was changed.**
"""


def check_sample(cohort: Cohort) -> None:
    """Refuse a table of a sample that has nothing to show.

    Raises:
        CaseError: for a row that cannot be used, has no image or no label; or for no row at all.
    """
    if cohort.problem is not None:
        raise cohort.problem
    if not cohort.cases:
        raise CaseError("the table of the sample has no row", file=cohort.path)
    for case in cohort.cases:
        if case.problem is not None:
            raise case.problem
        if case.label is None or not case.images:
            raise CaseError(
                "a case of the sample needs an image and a label",
                case=case.case_id,
                file=cohort.path,
                remedy="Fill in its row, or take it out of the table.",
            )


def write_sample(cohort: Cohort, folder: Path, trained: Iterable[str]) -> None:
    """Copy the voxels of all cases into ``folder``, with a table, the kinds of the modalities and a text.

    Args:
        cohort: of `check_sample`.
        folder: is made.
        trained: ids of the cases that the network was trained on; all others are held out.

    Raises:
        CaseError: for an image that cannot be read, or that a file does not hold after it was written.
    """
    seen = set(trained)
    cases = [_copied(case, folder) for case in cohort.cases]
    write_cohort(folder / "cohort.csv", cohort.modalities, cases, cohort.kinds)
    rows = "\n".join(f"| {case.case_id} | {'yes' if case.case_id in seen else 'no'} |" for case in cases)
    count = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
    write_text(folder / "README.md", README.format(count=count, rows=rows))


def _copied(case: Case, folder: Path) -> Case:
    place = folder / case.case_id
    images = {name: _copied_image(cell, place / name) for name, cell in case.images.items()}
    label = load_case_label(case)
    if is_image(next(iter(images.values()))):
        file = save_mask_png(label[0, ..., 0], place / "mask.png")
    else:
        file = save_volume(np.asarray(label[0]), grid_of(label).affine, place / "mask.nii.gz")
    return replace(case, images=images, label=file, split="validation", fold="", extra={}, written_id="")


def _copied_image(cell: Path, path: Path) -> Path:
    volume = load_volume(cell)  # reports what is wrong with the file, in words
    if is_image(cell):
        with Image.open(cell) as image:
            return save_png(np.asarray(image.convert("RGB") if image.mode == "P" else image), path.with_suffix(".png"))
    voxels = np.moveaxis(np.asarray(volume), 0, -1) if volume.shape[0] > 1 else np.asarray(volume[0])
    return save_volume(voxels, grid_of(volume).affine, path.with_name(f"{path.name}.nii.gz"))
