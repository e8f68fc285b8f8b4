"""One thing changes between two runs in one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from support.synthetic import MODALITIES, ThresholdCenter, read_rows, write_table

from differseg_med.errors import CaseError
from differseg_med.runs import manifest
from torture import Trial
from torture.common import cohort, differences, evaluator, results

CT = {**MODALITIES, "ct": {"kind": "ct", "window": [-100, 240]}}
SETTINGS: dict[str, dict[str, Any]] = {
    "threshold": {"threshold": 0.6},
    "roi_size": {"roi_size": (16, 16)},
    "pixdim": {"pixdim": (3.0, 3.0, 3.0)},
    "num_slices": {"inference": {"num_slices": 1}, "network": ThresholdCenter(num_slices=1)},
    "slice_step": {"inference": {"slice_step": 2}},
    "planes": {"inference": {"planes": ("axial", "coronal")}},
    "flip": {"inference": {"flip": True}},
    "overlap": {"inference": {"overlap": 0.25}},
    "min_component_ml": {"after": {"min_component_ml": 0.5}},
    "largest_only": {"after": {"largest_only": True}},
    "percentile": {"modalities": {**MODALITIES, "t1": {"kind": "mr", "percentile": 90}}},
    "window": {"modalities": CT},
    "smoothing": {"modalities": {**MODALITIES, "ct": {**MODALITIES["ct"], "smooth": 1.0}}},
    "order of modalities": {"modalities": dict(reversed(MODALITIES.items()))},
    "reference": {"reference": "ct"},
    "withhold": {"withhold": ("pet",)},
    "withhold another": {"withhold": ("ct",)},
    "weights": {"network": ThresholdCenter(threshold=-0.5)},
    "network": {"network": ThresholdCenter(modality=1, threshold=0.7)},
    "amp": {"amp": True},
    "formats": {"formats": ("seg.nrrd",)},
    "two formats": {"formats": ("probability", "bids")},
}


def trials(folder: Path, seed: int) -> list[Trial]:
    """Settings, then inputs, then software."""
    made: list[Trial] = [(name, partial(_changed, change)) for name, change in SETTINGS.items()]
    for column in ("t1", "ct", "pet"):
        made += [(f"{column}: {how.__name__}", partial(_other_input, column, how)) for how in HOW]
    made += [("code", partial(_other_software, "code")), ("version", partial(_other_software, manifest.PROGRAM))]
    made += [("label", _other_label), ("a lost mask", _lost_mask), ("a manifest that is gone", _no_manifest)]
    made += [("voxels beside a header", partial(_detached, ending)) for ending in (".nhdr", ".mhd")]
    return [*made, ("nothing", _nothing), ("interrupted twice", _twice)]


def _changed(change: dict[str, Any], place: Path) -> str:
    table = cohort(place)
    evaluator(table, place / "out").run()
    return _verdict(place, table, change)


def _verdict(place: Path, table: Path, change: dict[str, Any], must_change: bool = True) -> str:
    """Resume with a change; right if that is refused, or ends as a run in a new folder does."""
    before = results(place / "out")
    try:
        evaluator(table, place / "out", resume=True, **change).run()
    except (CaseError, SystemExit) as stop:
        text = str(stop)
        if "was" not in text or "is" not in text:
            return f"refused without the values: {text}"
        changed = differences(before, results(place / "out"))
        return f"refused, but changed {changed}" if changed else ""
    evaluator(table, place / "fresh", **change).run()
    kept = {name: text for name, text in results(place / "out").items() if not name.startswith("earlier_runs/")}
    stale = [name for name in differences(kept, results(place / "fresh")) if "run.json" not in name]
    return f"stale: {stale}" if stale else ""


def other_voxels(path: Path) -> None:
    """Other values in the same file."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj)[::-1].copy()
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


def other_place(path: Path) -> None:
    """The same values elsewhere."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 1.5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def same_size_and_date(path: Path) -> None:
    """One byte of the compressed file, with the old date."""
    other_voxels(path)
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, 10**18))


HOW: tuple[Callable[[Path], None], ...] = (other_voxels, other_place, same_size_and_date)


def _other_input(column: str, how: Callable[[Path], None], place: Path) -> str:
    table = cohort(place)
    evaluator(table, place / "out").run()
    how(place / "a" / f"{column}.nii.gz")
    return _verdict(place, table, {})


def _detached(ending: str, place: Path) -> str:
    """The header stays, its voxels change."""
    table = cohort(place, "a")
    image = sitk.ReadImage(str(place / "a" / "t1.nii.gz"))
    sitk.WriteImage(image, str(place / "a" / f"t1{ending}"))
    rows = [{**row, "t1": f"a/t1{ending}"} for row in read_rows(table).values()]
    evaluator(write_table(table, rows), place / "out").run()
    raw = next(path for path in (place / "a").iterdir() if path.suffix in (".raw", ".zraw"))
    raw.write_bytes(np.frombuffer(raw.read_bytes(), np.float32)[::-1].tobytes())
    return _verdict(place, table, {})


def _other_software(entry: str, place: Path) -> str:
    table = cohort(place, "a")
    evaluator(table, place / "out").run()
    steps = manifest.read_steps(place / "out")
    steps["predict"].software[entry] = "another"
    manifest.write_steps(place / "out", steps)
    return _verdict(place, table, {})


def _other_label(place: Path) -> str:
    table = cohort(place)
    evaluator(table, place / "out", evaluate=True).run()
    other_voxels(place / "a" / "label.nii.gz")
    return _verdict(place, table, {"evaluate": True})


def _lost_mask(place: Path) -> str:
    table = cohort(place)
    evaluator(table, place / "out").run()
    (place / "out" / "a" / "mask.nii.gz").unlink()
    return _verdict(place, table, {})


def _no_manifest(place: Path) -> str:
    table = cohort(place)
    evaluator(table, place / "out", threshold=0.9).run()
    (place / "out" / "run.json").unlink()
    return _verdict(place, table, {})


def _nothing(place: Path) -> str:
    """Without a change nothing is computed again."""
    table = cohort(place)
    evaluator(table, place / "out").run()
    times = {path: path.stat().st_mtime_ns for path in (place / "out").glob("*/mask.nii.gz")}
    wrong = _verdict(place, table, {})
    again = [str(path.parent.name) for path, time in times.items() if path.stat().st_mtime_ns != time]
    return wrong or (f"computed again without a reason: {again}" if again else "")


def _twice(place: Path) -> str:
    """A killed run wrote its new stamps, but no new mask: the old one must not pass for it."""
    table = cohort(place)
    evaluator(table, place / "out").run()
    other_voxels(place / "a" / "t1.nii.gz")
    shutil.copytree(place / "out", place / "copy")
    stopped = evaluator(table, place / "out", resume=True)
    stopped._work = lambda: None  # as if killed before the first case
    stopped.run()
    return _verdict(place, table, {})
