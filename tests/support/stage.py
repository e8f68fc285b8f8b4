"""A folder in which the commands of a page of the docs run as they stand: what a clone has, and what a reader brings.

A page is a session: its commands run one after another in one folder, in a fork of this process. The bundles are the
shipped ones with smaller copies of their samples. A reader's own files lie there under the names that the docs give
them (``COHORT.csv``, ``CT_FOLDER``, ``DATA``): tiny patients, and the shipped DICOM export. `LIMITS` cut the work down.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from typer.testing import CliRunner

from differseg_med.cli import app
from differseg_med.io.volumes import load_volume
from support.docs import ROOT, reason_not_to_run, shown_commands, words_of
from support.synthetic import BUNDLE, write_case, write_table

COARSE = ("planes=[axial]", "pixdim=[6,6,6]")
FLAT = ("spatial_size=[32,32]", "overlay=false")
SHORT = ("max_epochs=1", "iterations=1", "batch_size=1")
TINY = ("encoder=test_resnet", "encoder_weights=null", "decoder_channels=[8,8,8,8]")
LIMITS = {
    ("predict", "volume"): COARSE,
    ("predict", "2-D"): FLAT,
    ("evaluate", "volume"): COARSE,
    ("evaluate", "2-D"): FLAT,
    ("train", "volume"): (*COARSE, *SHORT, "val_interval=1", "roi_size=[32,32]"),
    ("train", "2-D"): (*SHORT, "val_interval=1", FLAT[0]),
    ("plan", "volume"): (*TINY, *COARSE, *SHORT, "roi_size=[32,32]"),
}
"""Settings that every such command of a page gets, so that it does less of the same; a planned bundle keeps them."""

SLAB = ROOT / "tests" / "data" / "sts_041_slab.zip"
TABLES = ("COHORT.csv", "cohort.csv", "sts.csv", "NEW.csv")
KINDS = "modalities: {t1: {kind: mr}, ct: {kind: ct}, pet: {kind: pet}}\n"


def make_readers_data(folder: Path) -> Path:
    """What a reader brings, once for all pages."""
    patients = {name: write_case(folder / name, seed=seed) for seed, name in enumerate("abcde")}
    for number, files in enumerate(patients.values()):  # no two patients are alike
        for name in ("pet", "label"):
            image = nib.load(files[name])
            voxels = np.roll(np.asarray(image.dataobj), number - 2, axis=1)
            voxels = voxels * (1 + number / 50) if name == "pet" else voxels
            voxels.flat[np.flatnonzero(voxels)[:number]] = 0
            nib.save(nib.Nifti1Image(voxels, image.affine), files[name])
    rows = [{"case_id": n, "subject_id": n, **{k: str(p) for k, p in f.items()}} for n, f in patients.items()]
    more = [("train", "0"), ("train", "1"), ("validation", "0"), ("", ""), ("", "")]
    rows = [row | {"split": split, "fold": fold} for row, (split, fold) in zip(rows, more)]
    for row in rows[3:]:
        row["label"] = ""  # takes no part in folds, so that two are enough
    write_table(folder / "table.csv", rows[:3])
    write_table(folder / "five.csv", rows)
    with zipfile.ZipFile(SLAB) as archive:
        archive.extractall(folder / "PACS_EXPORT")
    structures = pydicom.dcmread(folder / "PACS_EXPORT" / "RS" / "rs.dcm")
    structures.StructureSetROISequence[0].ROIName = "GTV"
    structures.save_as(folder / "RS.dcm")
    image, affine = _first(load_volume(folder / "PACS_EXPORT" / "MR_T1"))
    nib.save(nib.Nifti1Image(image, affine), folder / "T1.nii.gz")
    nib.save(nib.Nifti1Image((image > np.percentile(image, 99)).astype(np.uint8), affine), folder / "mask.nii.gz")
    for name in "abc":
        label = nib.load(patients[name]["label"])
        moved = np.roll(np.asarray(label.dataobj), 1, axis=0)
        for path in (f"NNUNET_OUTPUT/{name}.nii.gz", f"subsets/t1+ct+pet/{name}/mask.nii.gz"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(moved, label.affine), folder / path)
    _layouts(folder, {name: patients[name] for name in "abc"})
    _bundles(folder / "bundles")
    _photographs(folder)
    return folder


def _bundles(folder: Path) -> None:
    """The shipped bundles with every fourth voxel or pixel of their samples."""
    for bundle in (ROOT / "bundles").iterdir():
        for source in bundle.rglob("*"):
            target = folder / bundle.name / source.relative_to(bundle)
            if source.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.name.endswith(".nii.gz"):
                image = nib.load(source)
                step = (4, 4, 2)
                affine = image.affine @ np.diag([*step, 1])
                nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::4, ::4, ::2], affine), target)
            elif source.suffix in (".jpg", ".png"):
                image = Image.open(source)
                image.resize((image.width // 4, image.height // 4), Image.Resampling.NEAREST).save(target)
            else:
                shutil.copy(source, target)


def _first(volume: object) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(volume)[0], np.asarray(volume.affine)


def _layouts(folder: Path, patients: dict[str, dict[str, Path]]) -> None:
    """The same patients as other programs keep them."""

    def put(path: str, source: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / path)

    nnunet, msd = "nnUNet_raw/Dataset001_X", "Task01_BrainTumour"
    for number, (name, files) in enumerate(patients.items(), 1):
        for channel, modality in enumerate(("t1", "ct")):
            put(f"{nnunet}/imagesTr/{name}_{channel:04d}.nii.gz", files[modality])
        put(f"{nnunet}/labelsTr/{name}.nii.gz", files["label"])
        put(f"{msd}/imagesTr/{name}.nii.gz", files["t1"])
        put(f"{msd}/labelsTr/{name}.nii.gz", files["label"])
        put(f"bids_folder/sub-{number}/anat/sub-{number}_T1w.nii.gz", files["t1"])
        put(f"bids_folder/derivatives/x/sub-{number}/anat/sub-{number}_label-lesion_mask.nii.gz", files["label"])
        put(f"data/{name}/t1.nii.gz", files["t1"])
        put(f"data/{name}/mask.nii.gz", files["label"])
        shutil.copytree(folder / "PACS_EXPORT" / "CT", folder / f"data/{name}/CT")
        for phase in ("arterial", "portal"):
            put(f"DATA/{name}/{phase}.nii.gz", files["ct"])
        put(f"DATA/{name}/mask.nii.gz", files["label"])
        for sequence in ("flair", "t1", "t1post", "t2"):
            put(f"DATA/ms_mni/{name}/{sequence}.nii.gz", files["t1"])
        put(f"DATA/ms_mni/{name}/mask.nii.gz", files["label"])
    labels = {"background": 0, "core": 1, "rim": 2}
    info = {"channel_names": {"0": "T1", "1": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / nnunet / "dataset.json").write_text(json.dumps(info))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
    training = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in patients]
    info = {"modality": {"0": "T1w"}, "labels": {"0": "background", "1": "tumour"}, "training": training}
    (folder / msd / "dataset.json").write_text(json.dumps(info))


def _photographs(folder: Path) -> None:
    """The samples of the bundles of 2-D images under the names of their collections."""
    samples = {"rgb_disparity_pothole": ("pothole_rgbd", "depth", "disp")}
    samples |= {"rgb_flow_davis": ("davis_rgbflow", "flow", "flow")}
    for name, (bundle, column, called) in samples.items():
        sample = folder / "bundles" / f"{bundle}_segmentation" / "sample"
        for source, target in (("rgb", "rgb"), (column, called), ("mask", "mask")):
            (folder / "DATA" / name / target).mkdir(parents=True)
            for number, path in enumerate(sorted((sample / source).iterdir()) * 2):
                shutil.copy(path, folder / "DATA" / name / target / f"s{number}_0{path.suffix}")


class Stage:
    """The working folder of one page.

    Args:
        folder: empty, the working folder of this process.
        page: text of the page whose commands will run.
        data: what `make_readers_data` made.
    """

    def __init__(self, folder: Path, page: str, data: Path) -> None:
        self.page, self.data, self.variables = page, data, dict[str, str]()
        self.lines = [line for line in shown_commands(page) if not reason_not_to_run(line)]
        for name in ("configs", "docs", "scripts", "tests"):
            (folder / name).symlink_to(ROOT / name)
        # Hard links, since some commands replace weights: what is replaced here stays as it was there.
        shutil.copytree(data / "bundles", folder / "bundles", copy_function=os.link)
        if not self._makes("bundles/NAME"):
            shutil.copytree(data / "bundles" / BUNDLE.name, folder / "bundles" / "NAME", copy_function=os.link)
        shutil.copytree(data / "DATA", folder / "DATA", copy_function=os.link)
        for name in TABLES:
            if not self._makes(name):
                shutil.copy(data / ("five.csv" if "--k 5" in page else "table.csv"), folder / name)
                (folder / name).with_suffix(".yaml").write_text(KINDS)
        for name, target in self._links(folder).items():
            (folder / name).parent.mkdir(exist_ok=True)
            if not self._makes(name):
                (folder / name).symlink_to(target)

    def _makes(self, name: str) -> bool:
        """Whether a command of the page that is run writes it."""
        return any(re.search(rf"--out {re.escape(name)}(?![\w/])", line) for line in self.lines)

    def _links(self, folder: Path) -> dict[str, Path]:
        """What the docs call a reader's own files, and what stands for it here."""
        data, bundle = self.data, folder / "bundles" / BUNDLE.name
        export = data / "PACS_EXPORT"
        own = ("PACS_EXPORT", "T1.nii.gz", "mask.nii.gz", "nnUNet_raw", "splits_final.json", "Task01_BrainTumour")
        return {
            **{name: data / name for name in (*own, "bids_folder", "data", "NNUNET_OUTPUT", "subsets")},
            **{"BUNDLE": bundle, "OTHER": bundle, "MASK.nii.gz": data / "a/label.nii.gz"},
            **{"IMAGE.nii.gz": data / "a/pet.nii.gz", "CT_FOLDER": export / "CT", "PET_FOLDER": export / "PET"},
            **{"DICOM_FOLDER": export / "MR_T1", "pacs_export": export, "export.zip": SLAB},
            **{"study/T1": export / "MR_T1", "study/RS.dcm": data / "RS.dcm"},
        }

    def run(self, line: str) -> None:
        """Run a command as the page shows it.

        Raises:
            AssertionError: if it ends with another exit code than 0.
        """
        if assigned := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            self.variables[assigned[1]] = assigned[2]
            return
        for name, value in self.variables.items():
            line = line.replace(f"${name}", value)
        words = words_of(line)
        if words[0] == "python":
            _run_python(words[1:])
            return
        assert words[0] == "differseg-med", f"who runs {line}?"
        for call in self._shards([re.sub(r"^cuda:\d$", "cpu", word) for word in words[1:]]):
            self._prepare(call)
            code, said = _invoke([*call, *limits(call)])
            assert code == 0, f"{shlex.join(call)}\n{said}"

    def _shards(self, words: list[str]) -> list[list[str]]:
        """The command, and those of the other shards where the page shows the first only."""
        place = words.index("--shard") + 1 if "--shard" in words else 0
        if not words[place].startswith("1/") or "--shard 2/" in self.page:
            return [words]
        count = int(words[place].partition("/")[2])
        return [[*words[:place], f"{k}/{count}", *words[place + 1 :]] for k in range(1, count + 1)]

    def _prepare(self, words: list[str]) -> None:
        """More patients where the shipped export has too few; no folder that another example of the page has made."""
        table = next((Path(word) for word in words if word.endswith(".csv") and Path(word).is_file()), None)
        folds = words[:2] == ["cohort", "folds"]
        if table and (folds or words[0] in ("plan", "train")) and len(pd.read_csv(table)) == 1:
            several = pd.read_csv(self.data / "table.csv")
            several.drop(columns=["split", "fold"] if folds else []).to_csv(table, index=False)
        out = Path(words[words.index("--out") + 1]) if "--out" in words else Path()
        if words[:2] == ["cohort", "export"] and Path(out.parts[0]).is_symlink():
            Path(out.parts[0]).unlink()  # a reader's data set, which the same name stood for before
        if words[0] == "train" and out.name and "--fold" not in str(words):
            shutil.rmtree(out, ignore_errors=True)


def _invoke(words: list[str]) -> tuple[int, str]:
    """Exit code of ``differseg-med``, and what it printed and logged."""
    log = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(log)
    try:
        result = CliRunner().invoke(app, words)
    finally:
        logging.getLogger().removeHandler(log)
    unforeseen = "" if isinstance(result.exception, SystemExit | None) else repr(result.exception)
    return result.exit_code, f"{result.output}{log.stream.getvalue()}{unforeseen}"


def _run_python(words: list[str]) -> None:
    """What ``python FILE``, ``python -m MODULE`` or ``python -c CODE`` does."""
    if words[0] == "-c":
        exec(compile(words[1], "<code>", "exec"), {})
        return
    run: Callable[..., object] = runpy.run_path
    if words[0] == "-m":
        words, run = words[1:], runpy.run_module
        words += [word for name in COARSE for word in _monai(name)] if "sts_" in str(words) else []
    sys.argv, sys.path = words, ["scripts", *sys.path]
    try:
        run(words[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise AssertionError(f"{shlex.join(words)}: exit code {ended.code}") from ended


def _monai(setting: str) -> tuple[str, str]:
    name, _, value = setting.partition("=")
    return f"--{name}", value.replace("axial", "'axial'")


def limits(words: list[str]) -> list[str]:
    """The options of `LIMITS` for a command."""
    kind = "volume"
    if "--bundle" in words:
        text = (Path(words[words.index("--bundle") + 1]) / "configs" / "inference.yaml").read_text(encoding="utf-8")
        kind = "2-D" if "\nspatial_size:" in text else kind
    elif words[0] != "plan":
        return []
    return [word for setting in LIMITS.get((words[0], kind), ()) for word in ("--set", setting)]


def play(page: Path, lines: list[str], data: Path, folder: Path) -> str:
    """Run the lines of a page on a stage of their own, in this process; what went wrong, empty if nothing."""
    os.chdir(folder)
    stage = Stage(folder, page.read_text(encoding="utf-8"), data)
    failed = []
    for line in lines:
        try:
            stage.run(line)
        except Exception as error:
            failed.append(f"{line}\n{error if isinstance(error, AssertionError) else traceback.format_exc()}")
    return "\n".join(failed)
