"""``differseg-med cohort import`` and ``export``: between the cohort table and the layouts of nnU-Net and MSD."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from numpy.typing import NDArray

from differseg_med.atomic import write_text
from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.availability import absent_of
from differseg_med.cohort.importers import COLUMNS, SKIP, ZEROS, Imported
from differseg_med.cohort.kinds import check_kinds_file, need_kinds, table_files
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError
from differseg_med.export.nifti import save_nifti
from differseg_med.geometry import Grid, almost_same_grid, describe
from differseg_med.guard import check_target, writing_for
from differseg_med.io.dicom.cells import join_cell
from differseg_med.io.headers import read_header
from differseg_med.io.itk import as_image, as_voxels, empty_image
from differseg_med.io.labels import load_case_label
from differseg_med.io.nifti import save_volume
from differseg_med.io.volumes import file_grid, load_volume
from differseg_med.io.voxels import read_voxels
from differseg_med.modality import nnunet_channel
from differseg_med.paths import inside
from differseg_med.progress import Progress
from differseg_med.runs.folder import occupied
from differseg_med.runs.stamps import inputs_of
from differseg_med.transforms.grids import grid_of


def write_imported(found: Imported, out: str | Path, foreground: str = "", progress: Progress = iter) -> list[Case]:
    """Write the cohort table of an imported data set.

    Args:
        found: what a reader of `differseg_med.cohort.importers` returned.
        out: the table. Files of several channels are split into the folder ``<name of out>_images`` beside it.
        foreground: label values that are the target, ``1,2,3``, or names of classes of the data set; default: the one
            value that is not 0.
        progress: wraps the cases that are split.

    Returns:
        The rows.

    Raises:
        CaseError: if a file of several channels cannot be read, the file of kinds beside ``out`` is something else, or
            ``foreground`` names a class that the data set does not have.
    """
    out, foreground = Path(out), found.foreground(foreground)
    check_kinds_file(out)
    images: dict[str, dict[str, Path]] = {}
    for case_id, path in progress(found.stacked.items()):
        folder = inside(out.parent / f"{out.stem}_images", case_id)
        images[case_id] = _taken_apart(path, folder, found.modalities, case_id)
    cases = []
    for case in found.cases:
        label = Path(join_cell(case.label, foreground)) if case.label is not None else None
        cases.append(replace(case, images=images.get(case.case_id, case.images), label=label))
    write_cohort(out, found.modalities, cases, found.kinds)
    return cases


def _taken_apart(path: Path, folder: Path, modalities: Sequence[str], case_id: str) -> dict[str, Path]:
    try:
        header = read_header(path, several=True)
        voxels = read_voxels(header).astype(np.float32, copy=False).reshape(*header.grid.shape, -1, order="A")
    except CaseError as error:
        raise error.for_case(case_id) from error
    # A channel of zeros is how a layout that knows no absence says that the modality is absent.
    present = [(n, m) for n, m in enumerate(modalities) if voxels[..., n].any()]
    return {m: save_volume(voxels[..., n], header.grid.affine, folder / f"{m}.nii.gz") for n, m in present}


def export_msd(cohort: Cohort, out: str | Path, *, stacked: bool = False, progress: Progress = iter) -> list[CaseError]:
    """Write an MSD (Decathlon) data list with ``fold``, as MONAI's ``load_decathlon_datalist`` and Auto3DSeg read it.

    Args:
        cohort: the table.
        out: ``dataset.json`` to write. Cases of split ``test`` go under ``test`` and ``testing``, all others with a
            label under ``training``.
        stacked: write one 4-D file per case (channels last, on the grid of the first modality) and 0/1 labels in
            ``imagesTr``, ``imagesTs`` and ``labelsTr`` beside it. Else name the files where they are: this needs
            NIfTI and images on one grid, without which Auto3DSeg stops.
        progress: wraps the cases.

    Returns:
        Cases that could not be exported; a modality that is absent cannot be expressed in a list of files.

    Raises:
        CaseError: if the kind of a modality is not known, the folder cannot be written, or ``out`` is a file of the
            cohort.
    """
    need_kinds(cohort, "the list of modalities")
    with occupied(Path(out).parent, _data(cohort), deep=False):
        check_target(Path(out))
        return _export_msd(cohort, Path(out), stacked, progress)


def _export_msd(cohort: Cohort, out: Path, stacked: bool, progress: Progress) -> list[CaseError]:
    failed = []
    entries: dict[str, list[dict[str, object]]] = {"training": [], "test": []}
    for case in progress(cohort.cases):
        try:
            key = "test" if case.split == "test" else "training"
            with writing_for(case.case_id):
                entry = run_for_case(lambda case: _msd_entry(case, cohort.modalities, out, stacked), case, case)
            fold = {"fold": int(case.fold)} if case.fold.isdecimal() and key == "training" else {}
            entries[key].append(entry | fold)
        except CaseError as error:
            failed.append(error)
    info = {
        "name": out.parent.name,
        "description": "exported by differseg_med",
        "tensorImageSize": "4D" if stacked else "3D",
        "modality": _channels(cohort),
        COLUMNS: _columns(cohort),
        "labels": {"0": "background", "1": "foreground"},
        "numTraining": len(entries["training"]),
        "numTest": len(entries["test"]),
        **entries,
        "testing": entries["test"],  # MSD's key, and that of Auto3DSeg
    }
    write_text(out, json.dumps(info, indent=2) + "\n")
    return failed


def _msd_entry(case: Case, modalities: Sequence[str], out: Path, stacked: bool) -> dict[str, object]:
    test = case.split == "test"
    _raise_problem(case, needs_label=not test)
    if not stacked:
        cells = [case.images[m] for m in modalities if m in case.images] + ([case.label] if case.label else [])
        others = [f"no {name}" for name in absent_of(case, modalities)]
        others += [f"{cell.name}, which is no plain file" for cell in cells if not cell.is_file()]
        if others:
            raise CaseError(
                "left out: a list of files cannot say what this case is",
                case=case.case_id,
                found="; ".join(others),
                remedy="--layout 4d writes files of its own, with zeros for what is absent.",
            )
        _check_one_grid(case)
        paths = [_relative(cell, out.parent) for cell in cells]
        return {"image": paths[: len(modalities)], **({"label": paths[-1]} if case.label else {})}
    volumes, grid = _on_one_grid(case, modalities)
    image = out.parent / ("imagesTs" if test else "imagesTr") / f"{case.case_id}.nii.gz"
    save_volume(np.stack(volumes, axis=-1), grid.affine, image)
    entry: dict[str, object] = {"image": _relative(image, out.parent)}
    if case.label is not None:
        label = _save_label(case, grid, out.parent / ("labelsTs" if test else "labelsTr"))
        entry["label"] = _relative(label, out.parent)
    return entry


def export_nnunet(
    cohort: Cohort, out: str | Path, *, missing: str = SKIP, progress: Progress = iter
) -> list[CaseError]:
    """Write an nnU-Net raw data set: images of each case on the grid of its first modality, labels 0/1.

    ``dataset.json`` (version 2) names the channels so that nnU-Net normalizes each by its kind. If the table has folds
    or a validation split, ``splits_final.json`` lies beside it: copy it into the preprocessed folder.

    Args:
        cohort: the table; cases of split ``test`` go into ``imagesTs`` and ``labelsTs``.
        out: the folder, ``nnUNet_raw/DatasetXXX_Name``.
        missing: nnU-Net knows no absent channel: ``skip`` leaves such cases out (they are returned), ``zeros`` writes
            zeros.
        progress: wraps the cases.

    Returns:
        Cases that could not be exported.

    Raises:
        CaseError: if the kind of a modality is not known, or the folder cannot be written.
    """
    need_kinds(cohort, "how nnU-Net normalizes the images")
    with occupied(out, _data(cohort)):
        return _export_nnunet(cohort, Path(out), missing, progress)


def _data(cohort: Cohort) -> list[Path]:
    """What an export never writes."""
    return [*table_files(cohort.path), *(path for case in cohort.cases for path in inputs_of(case))]


def _export_nnunet(cohort: Cohort, out: Path, missing: str, progress: Progress) -> list[CaseError]:
    failed, trained = [], []
    for case in progress(cohort.cases):
        try:
            with writing_for(case.case_id):
                run_for_case(lambda case: _nnunet_case(case, cohort.modalities, out, missing), case, case)
        except CaseError as error:
            failed.append(error)
            continue
        if case.split != "test":
            trained.append(case)
    info = {
        "channel_names": _channels(cohort),
        COLUMNS: _columns(cohort),
        "labels": {"background": 0, "foreground": 1},
        "numTraining": len(trained),
        "file_ending": ".nii.gz",
        "name": out.name,
    }
    write_text(out / "dataset.json", json.dumps(info, indent=2) + "\n")
    if splits := _splits(trained):
        write_text(out / "splits_final.json", json.dumps(splits, indent=2) + "\n")
    return failed


def _channels(cohort: Cohort) -> dict[str, str]:
    """Names of channels that say how nnU-Net (also its converter of MSD data sets) is to normalize them."""
    return {str(n): nnunet_channel(name, cohort.kinds[name]) for n, name in enumerate(cohort.modalities)}


def _columns(cohort: Cohort) -> dict[str, dict[str, str]]:
    return {str(n): {"name": name, "kind": cohort.kinds[name]} for n, name in enumerate(cohort.modalities)}


def _nnunet_case(case: Case, modalities: Sequence[str], out: Path, missing: str) -> None:
    test = case.split == "test"
    _raise_problem(case, needs_label=not test)
    if (absent := absent_of(case, modalities)) and missing != ZEROS:
        raise CaseError(
            "left out: nnU-Net knows no absent channel",
            case=case.case_id,
            found=f"no {' and no '.join(absent)}",
            remedy="--missing zeros exports it with zeros.",
        )
    volumes, grid = _on_one_grid(case, modalities)
    for channel, voxels in enumerate(volumes):
        name = f"{case.case_id}_{channel:04d}.nii.gz"
        save_volume(voxels, grid.affine, out / ("imagesTs" if test else "imagesTr") / name)
    if case.label is not None:
        _save_label(case, grid, out / ("labelsTs" if test else "labelsTr"))


def _splits(cases: Sequence[Case]) -> list[dict[str, list[str]]]:
    """nnU-Net's list of folds: from the column fold, else one from the splits train and validation."""
    column = "fold" if any(case.fold for case in cases) else "split"
    sides = sorted({getattr(case, column) for case in cases} - {""}) if column == "fold" else ["validation"]
    splits = [
        {
            "train": [case.case_id for case in cases if getattr(case, column) != side],
            "val": [case.case_id for case in cases if getattr(case, column) == side],
        }
        for side in sides
    ]
    return [split for split in splits if split["val"]]


def _raise_problem(case: Case, *, needs_label: bool) -> None:
    if case.problem is not None:
        raise case.problem
    if not case.images:
        raise CaseError("the case has no image", case=case.case_id)
    if needs_label and case.label is None:
        raise CaseError("the case has no label to train with", case=case.case_id, remedy="Give it the split test.")


def _check_one_grid(case: Case) -> None:
    """Refuse files on several grids, which programs stack as they are."""
    grids = {name: file_grid(cell) for name, cell in case.images.items()}
    first = next(iter(grids))
    if other := [name for name, grid in grids.items() if not almost_same_grid(grid, grids[first])]:
        raise CaseError(
            "left out: its images are on several grids, which a list of files cannot put together",
            case=case.case_id,
            expected=f"the grid of {first}, {describe(grids[first])}",
            found=f"{other[0]}: {describe(grids[other[0]])}",
            remedy="--layout 4d writes all modalities on one grid.",
        )


def _on_one_grid(case: Case, modalities: Sequence[str]) -> tuple[list[NDArray[Any]], Grid]:
    """Every modality ``(H, W, D)`` on the grid of the first present one; absent ones are zeros."""
    volumes = {m: load_volume(cell) for m, cell in case.images.items()}
    if colours := [m for m, volume in volumes.items() if volume.shape[0] != 1]:
        raise CaseError(
            "left out: a colour image is not one channel",
            case=case.case_id,
            file=case.images[colours[0]],
            expected="one channel",
            found=f"{volumes[colours[0]].shape[0]}",
            remedy="Save it in grey, or its colours as files and columns of their own.",
        )
    grid = grid_of(next(iter(volumes.values())))
    return [_moved(volumes[m], grid) if m in volumes else np.zeros(grid.shape) for m in modalities], grid


def _moved(volume: MetaTensor, grid: Grid) -> NDArray[Any]:
    """An image on another grid: linear; outside its field of view its lowest value (air)."""
    voxels = np.asarray(volume[0])
    if almost_same_grid(grid_of(volume), grid):
        return voxels
    image = as_image(voxels, grid_of(volume).affine)
    return as_voxels(sitk.Resample(image, empty_image(grid), sitk.Transform(), sitk.sitkLinear, float(voxels.min())))[0]


def _save_label(case: Case, grid: Grid, folder: Path) -> Path:
    label = load_case_label(case)
    if not almost_same_grid(grid_of(label), grid):
        raise CaseError(
            "the label is on another grid than the first modality",
            case=case.case_id,
            file=case.label,
            remedy="Put the modality that it was drawn on into the first column.",
        )
    return save_nifti(np.asarray(label[0], dtype=np.uint8), grid.affine, folder / f"{case.case_id}.nii.gz")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
