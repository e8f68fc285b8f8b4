"""``differseg-med cohort register`` and ``n4``: new volumes for a cohort, with a note and a picture per case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from numpy.typing import NDArray
from skimage.filters import threshold_multiotsu

from differseg_med.atomic import replacing
from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.kinds import table_files
from differseg_med.cohort.registration.rigid import Method, Registration, correct_bias, register
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError
from differseg_med.guard import check_target, writing_for
from differseg_med.io.itk import as_image, as_voxels
from differseg_med.io.nifti import save_volume
from differseg_med.io.volumes import load_volume
from differseg_med.modality import label_of
from differseg_med.progress import Progress
from differseg_med.runs.folder import occupied, refuse_data
from differseg_med.runs.manifest import Step, recording
from differseg_med.runs.stamps import case_stamps, inputs_of
from differseg_med.transforms.grids import grid_of

TABLE = "cohort.csv"
OUTLINE_MM = 2.0
"""How much the moving image is smoothed before it is outlined in pictures."""


@dataclass(frozen=True)
class Changed:
    """What became of a case: its new row, remarks for the reader, and the error that stopped it."""

    case: Case
    notes: tuple[str, ...] = ()
    error: CaseError | None = None


def register_cohort(
    cohort: Cohort,
    out_dir: str | Path,
    modalities: Sequence[str] = (),
    *,
    method: Method = Method.RIGID,
    progress: Progress = iter,
) -> list[Changed]:
    """Register modalities to the first of the table; the label stays, as it was drawn on the first.

    Per case and modality: ``<modality>.nii.gz`` (the voxels as they were, with a new affine), ``<modality>.tfm`` (the
    transform, for SimpleITK or 3D Slicer) and ``<modality>_registration.png`` (before and after). The new table is
    ``out_dir/cohort.csv``, with the motion in a column ``registration``.

    Args:
        cohort: the table; a case without the first modality is left as it is.
        out_dir: folder of the results.
        modalities: those to register; default: all but the first.
        method: rigid, or translation only.
        progress: wraps the cases, for example ``tqdm``.
    """
    if not cohort.modalities:
        raise CaseError("no column of the table names images", file=cohort.path, remedy="Add one per modality.")
    reference = cohort.modalities[0]
    wanted = _known(cohort, modalities or cohort.modalities[1:])

    def change(case: Case) -> Changed:
        moving = [m for m in wanted if m in case.images and m != reference]
        if reference not in case.images or not moving:
            return Changed(case, (f"not registered: no {reference}, or nothing to register to it",))
        fixed = load_volume(case.images[reference])
        images, notes = dict(case.images), []
        for modality in moving:
            target = Path(out_dir) / case.case_id / f"{modality}.nii.gz"
            found = _register(fixed, load_volume(case.images[modality]), target, f"{case.case_id}: {modality}", method)
            images[modality] = target
            notes.append(f"{modality} {found.describe()}")
            if found.after is not None and found.after.off:
                notes.append(f"{modality} is still not registered: {found.after.describe()}. Look at {target.name}")
        extra = {**case.extra, "registration": "; ".join(notes)}
        return Changed(replace(case, images=images, extra=extra), tuple(notes))

    return _change(cohort, out_dir, change, progress, "register")


def correct_cohort(
    cohort: Cohort, out_dir: str | Path, modalities: Sequence[str], *, progress: Progress = iter
) -> list[Changed]:
    """Correct the bias field (N4) of MR modalities: ``out_dir/<case_id>/<modality>.nii.gz`` and ``cohort.csv``.

    Raises:
        CaseError: for a modality that the table does not have, or that is known to be another kind of image.
    """
    wanted = _known(cohort, modalities)
    if other := [m for m in wanted if cohort.kinds.get(m, "mr") != "mr"]:
        found = label_of(cohort.kinds[other[0]])
        raise CaseError(f"{other[0]} has no bias field to correct", file=cohort.path, expected="MR", found=found)

    def change(case: Case) -> Changed:
        images, notes = dict(case.images), []
        for modality in (m for m in wanted if m in images):
            volume = load_volume(images[modality])
            affine = grid_of(volume).affine
            image = as_image(np.asarray(volume[0]), affine)
            corrected = as_voxels(correct_bias(image))[0]
            images[modality] = save_volume(corrected, affine, Path(out_dir) / case.case_id / f"{modality}.nii.gz")
            notes.append(f"{modality}: {_strength(np.asarray(volume[0]), corrected)}")
        extra = {**case.extra, "bias_field": "; ".join(notes)}
        return Changed(replace(case, images=images, extra=extra), tuple(notes))

    return _change(cohort, out_dir, change, progress, "n4")


def _change(
    cohort: Cohort, out_dir: str | Path, change: Callable[[Case], Changed], progress: Progress, step: str
) -> list[Changed]:
    """Change each case and write the table; one that fails keeps its row."""
    out_dir, done = Path(out_dir), []
    inputs = [*table_files(cohort.path), *(path for case in cohort.cases for path in inputs_of(case))]
    with occupied(out_dir, inputs):
        refuse_data(out_dir, cohort.cases)
        check_target(out_dir / TABLE)  # before the work, not after it
        with recording(out_dir, step, Step.now({}, {c.case_id: case_stamps(c) for c in cohort.cases})):
            for case in progress(cohort.cases):
                try:
                    if case.problem is not None:
                        raise case.problem
                    with writing_for(case.case_id):
                        done.append(run_for_case(change, case, case))
                except CaseError as error:
                    done.append(Changed(case, error=error))
            write_cohort(out_dir / TABLE, cohort.modalities, [changed.case for changed in done], cohort.kinds)
    return done


def _known(cohort: Cohort, modalities: Sequence[str]) -> Sequence[str]:
    if unknown := [m for m in modalities if m not in cohort.modalities]:
        raise CaseError(f"the table has no column {unknown[0]!r}", expected=f"some of {list(cohort.modalities)}")
    return modalities


def _register(fixed: MetaTensor, moving: MetaTensor, target: Path, title: str, method: Method) -> Registration:
    voxels, affine = np.asarray(moving[0]), grid_of(moving).affine
    fixed_image, moving_image = as_image(np.asarray(fixed[0]), grid_of(fixed).affine), as_image(voxels, affine)
    found = register(fixed_image, moving_image, affine, method)
    save_volume(voxels, found.affine, target)
    with replacing(target.with_name(target.name.replace(".nii.gz", ".tfm")), ".tfm") as temporary:
        sitk.WriteTransform(found.transform, str(temporary))
    with replacing(target.with_name(target.name.replace(".nii.gz", "_registration.png")), ".png") as temporary:
        _draw(fixed_image, moving_image, found, temporary, title)
    return found


def _draw(fixed: sitk.Image, moving: sitk.Image, found: Registration, path: Path, title: str) -> None:
    """Three planes of the reference, with outlines of the moving image before (top) and after."""
    background = as_voxels(fixed)[0]
    spacing = fixed.GetSpacing()
    rows = {"before": sitk.Transform(), "after": found.transform}
    levels = _tissues(as_voxels(moving)[0])
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(moving, sitk.sitkFloat32), OUTLINE_MM)  # noise has outlines too
    lowest = float(sitk.GetArrayViewFromImage(smooth).min())
    figure, axes = plt.subplots(2, 3, figsize=(10, 7), constrained_layout=True)
    for row, (name, transform) in enumerate(rows.items()):
        moved = as_voxels(sitk.Resample(smooth, fixed, transform, sitk.sitkLinear, lowest))[0]
        for axis in range(3):
            plot = axes[row, axis]
            height, width = (spacing[i] for i in range(3) if i != axis)
            still, outline = (np.take(v, v.shape[axis] // 2, axis) for v in (background, moved))
            plot.imshow(still.T, cmap="gray", aspect=width / height, vmin=still.min(), vmax=_bright(still))
            if np.ptp(outline):
                plot.contour(outline.T, levels=levels, colors=["#00a0d0", "#ff7f0e"], linewidths=1.2)
            plot.set_axis_off()
        axes[row, 0].set_title(name, loc="left")
    figure.suptitle(fill(f"{title}, outlined on the reference: {found.describe()}", 130), fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tissues(voxels: NDArray[Any]) -> list[float]:
    """Two grey values that part an image into three tissues (Otsu): air, soft tissue and bone in CT, for example."""
    values = voxels.ravel()[:: max(1, voxels.size // 200_000)]
    if np.unique(values).size < 3:
        return [float(values.mean())]
    return [float(level) for level in threshold_multiotsu(values, classes=3)]


def _bright(image: NDArray[Any]) -> float:
    return float(np.quantile(image, 0.995)) or 1.0


def _strength(before: NDArray[Any], after: NDArray[Any]) -> str:
    """How much N4 changed an image: the field's middle 90 percent over the foreground."""
    inside = (before > 0) & (after > 0)
    low, high = np.quantile(before[inside] / after[inside], [0.05, 0.95]) if inside.any() else (1.0, 1.0)
    return f"bias field {low:.2f} to {high:.2f} (5 to 95 % of the foreground)"
