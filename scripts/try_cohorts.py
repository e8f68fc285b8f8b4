"""Take seven kinds of cohorts from a folder to scores and masks with the commands of a user, and nothing else.

    python scripts/try_cohorts.py DATA --out OUT --time 30s --page docs/cohorts.md

DATA holds `sts`, `sts_dicom`, `ms_mni` and `rgb_disparity_pothole`. Each cohort is a small folder of links to them
(or of synthetic phases), in which the commands are run as the page shows them, one after another in this process. Each
planned bundle is walked as the tests walk the shipped ones. What a command printed is in OUT/<cohort>/said.txt.
Ends with exit code 1 if a command or a walk failed. A cohort that is there already is made again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from typer.main import get_command

from differseg_med.cli import app

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.walk import walk_planned  # noqa: E402

PATIENTS = ("STS_025", "STS_041", "STS_042", "STS_032", "STS_002")
"""Those with the smallest images."""

BLANK = {("STS_025", "pet"), ("STS_042", "t1"), ("STS_002", "pet")}
"""Of ten cells: 30 %."""


@dataclass(frozen=True)
class Kind:
    """A kind of cohort.

    Args:
        title: for the page.
        make: fills a folder from DATA.
        table: the first command, from that folder ``data`` to ``cohort.csv``.
        target: what the masks show; empty for what DICOM has no code for.
        formats: of the masks that are written at the end; empty for pictures, whose masks are PNG.
    """

    title: str
    make: Callable[[Path, Path], None]
    table: str
    target: str
    formats: str = "seg.nrrd,dicom-seg"

    def commands(self, name: str, seconds: str) -> list[str]:
        """From the folder to masks; the third gives the scores."""
        target = f' --target "{self.target}"' if self.target else ""
        formats = f" --formats {self.formats}" if self.formats else ""
        return [
            self.table,
            f"differseg-med plan cohort.csv --name {name}{target} --time {seconds}",
            f"differseg-med train --bundle bundles/{name} --cohort cohort.csv --folds all --out runs/{name}",
            f"differseg-med release runs/{name} --out released/{name}",
            f"differseg-med predict --bundle released/{name} --cohort cohort.csv --split validation{formats}"
            " --out results",
        ]


@dataclass
class Outcome:
    """What became of a cohort: CPU seconds of each command, steps of a training, its scores, what went wrong."""

    commands: list[str]
    cpu: list[float] = field(default_factory=list)
    steps: int = 0
    scores: str = ""
    masks: str = ""
    wrong: str = ""


def link(source: Path, target: Path) -> None:
    """A link to a file or folder, in a folder that is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.resolve())


def patients(names: tuple[str, ...], blank: set[tuple[str, str]] | None = None) -> Callable[[Path, Path], None]:
    """Sarcoma patients, a folder each, without the files of ``blank``."""

    def make(data: Path, folder: Path) -> None:
        for patient in PATIENTS[: 3 if blank is None else 5]:
            for name in (*names, "mask"):
                if (patient, name) not in (blank or ()):
                    link(data / "sts" / patient / f"{name}.nii.gz", folder / patient / f"{name}.nii.gz")

    return make


def ct_folder(data: Path, folder: Path) -> None:
    """DICOM CT with its RTSTRUCT, as a hospital exports it."""
    for patient in sorted((data / "sts_dicom").glob("STS_*")):
        link(patient / "CT", folder / patient.name)


def lesions(data: Path, folder: Path) -> None:
    """Three patients with multiple sclerosis."""
    for patient in sorted((data / "ms_mni").glob("patient*")):
        link(patient, folder / patient.name)


def phases(_data: Path, folder: Path) -> None:
    """Synthetic CT of two phases."""
    script = ROOT / "scripts" / "make_multiphase_ct.py"
    subprocess.run([sys.executable, script, "--out", folder, "--cases", "3"], check=True, stdout=subprocess.DEVNULL)


def nnunet(data: Path, folder: Path) -> None:
    """A raw data set of nnU-Net of two channels, and its splits."""
    root = folder / "Dataset501_Sarcoma"
    for patient in PATIENTS[:4]:
        for number, name in enumerate(("t1", "ct")):
            link(data / "sts" / patient / f"{name}.nii.gz", root / "imagesTr" / f"{patient}_{number:04d}.nii.gz")
        link(data / "sts" / patient / "mask.nii.gz", root / "labelsTr" / f"{patient}.nii.gz")
    info = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    halves = PATIENTS[:2], PATIENTS[2:4]
    splits = [{"train": halves[1 - n], "val": halves[n]} for n in (0, 1)]
    (root / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")


def road(data: Path, folder: Path) -> None:
    """Five images of a road with potholes: colour and disparity."""
    for name in ("rgb", "disp", "mask"):
        for file in sorted((data / "rgb_disparity_pothole" / name).glob("d*.*"))[:5]:
            link(file, folder / name / file.name)


def pattern(**kinds: str) -> str:
    """The import of a folder per case, with these modalities and their kinds."""
    images = " ".join(f'--image "{name}={{case}}/{name}.nii.gz"' for name in kinds)
    said = " ".join(f"--kind {name}={kind}" for name, kind in kinds.items())
    return f'differseg-med cohort import pattern data {images} --label "{{case}}/mask.nii.gz" {said} --out cohort.csv'


KINDS = {
    "sts": Kind(
        "PET, CT and MR of three patients with a sarcoma (NIfTI, a folder each)",
        patients(("t1", "ct", "pet")),
        pattern(t1="mr", ct="ct", pet="pet"),
        "neoplasm",
    ),
    "ms": Kind(
        "Four MR sequences of three patients with multiple sclerosis",
        lesions,
        pattern(flair="mr", t1="mr", t1post="mr", t2="mr"),
        "MS lesion=brain lesion",
    ),
    "one_ct": Kind(
        "One modality: DICOM series of CT of three patients, the tumours as RTSTRUCT",
        ct_folder,
        "differseg-med cohort scan data --modalities ct --out cohort.csv",
        "neoplasm",
    ),
    "two_phases": Kind(
        "Two phases of CT, synthetic: `python scripts/make_multiphase_ct.py --out data --cases 3`",
        phases,
        pattern(arterial="ct", portal="ct"),
        "liver lesion",
    ),
    "nnunet": Kind(
        "A raw data set of nnU-Net, with the splits that it was trained on",
        nnunet,
        "differseg-med cohort import nnunet data/Dataset501_Sarcoma --splits "
        "data/Dataset501_Sarcoma/splits_final.json --out cohort.csv",
        "neoplasm",
    ),
    "blanks": Kind(
        "30 % of the entries blank: five patients, MR or PET is missing in three of them",
        patients(("t1", "pet"), BLANK),
        pattern(t1="mr", pet="pet"),
        "neoplasm",
    ),
    "rgbd": Kind(
        "Photographs with depth: five images of a road",
        road,
        "differseg-med cohort import folders --root data --modalities rgb,depth=disp --mask mask --kind rgb=image "
        "--kind depth=depth --out cohort.csv",
        "",
        "",
    ),
}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The folder as the working directory, output of commands into its ``said.txt``."""
    before = Path.cwd()
    with (folder / "said.txt").open("a", encoding="utf-8") as said:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=said, force=True)
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                yield
        finally:
            os.chdir(before)


def run(command: str, folder: Path) -> str:
    """Run a command in the folder; what went wrong, or nothing."""
    with inside(folder):
        print(f"\n$ {command}", flush=True)
        try:
            get_command(app).main(shlex.split(command)[1:], prog_name="differseg-med")
        except SystemExit as stop:
            return "" if stop.code in (0, None) else f"{command.split()[1]} ended with {stop.code}"
        except Exception as error:  # a traceback is what a user would see
            traceback.print_exc()
            return f"{command.split()[1]}: {type(error).__name__}: {error}"
    return ""


def try_kind(name: str, kind: Kind, data: Path, out: Path, seconds: str) -> Outcome:
    """All commands of a cohort, and the walk."""
    folder, found = out / name, Outcome(kind.commands(name, seconds))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind.make(data, folder / "data")
    for command in found.commands:
        start = time.process_time()
        found.wrong = run(command, folder)
        found.cpu.append(time.process_time() - start)
        print(f"{name}: {found.cpu[-1]:4.0f} CPU s  {command}", flush=True)
        if found.wrong:
            return found
    found.scores = scores_of(folder / "runs" / name / "summary.csv")
    found.masks = masks_in(folder / "results")
    found.steps = json.loads(next((folder / "runs" / name).glob("fold*/training.json")).read_text())["steps"]
    weights = next((folder / "runs" / name).glob("fold*/model.pt"))
    try:
        with inside(folder):
            walk_planned(folder / "bundles" / name, folder / "cohort.csv", folder / "walk", weights)
    except AssertionError as error:
        found.wrong = f"the walk failed: {error}"
    return found


def scores_of(summary: Path) -> str:
    """Mean Dice of all modalities, with its interval and the number of patients."""
    with summary.open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    low, high = row["dice_mean_low"], row["dice_mean_high"]
    interval = f" ({float(low):.2f} to {float(high):.2f})" if low else ""
    return f"{float(row['dice_mean']):.2f}{interval}, {row['patients']} patients"


def masks_in(results: Path) -> str:
    """The files of masks of the first case."""
    first = min(path for path in results.iterdir() if path.is_dir())
    return ", ".join(sorted(f"`{path.name}`" for path in first.iterdir() if "mask" in path.name))


def page(found: dict[str, Outcome], seconds: str) -> str:
    """The page of all cohorts."""
    lines = [
        "# Seven cohorts, from folder to scores",
        "",
        "Each block was run as it stands, in a folder that holds `data`, by",
        "",
        f"    python scripts/try_cohorts.py DATA --out OUT --time {seconds} --page docs/cohorts.md",
        "",
        "Nothing was edited between the commands. The third one gives the scores; the last two make the bundle",
        f"to ship, and masks in the formats that were asked for. With `--time {seconds}` a training is a few steps",
        "on a few patients: **the scores only show that the steps work, not what a training reaches**. Each",
        "planned bundle passed the walk of `tests/support/walk.py`. CPU seconds are of one thread: table, plan, folds,",
        "release, masks. A plan counts the steps by the clock: on a busy machine there are fewer. DICOM SEG is written",
        "where the images are DICOM; elsewhere a line says that it is not.",
        "",
        "| cohort | steps of a fold | mean Dice, out of fold (95 %) | CPU s | masks of a case |",
        "|---|---|---|---|---|",
    ]
    for name, outcome in found.items():
        cpu = " + ".join(f"{value:.0f}" for value in outcome.cpu)
        cells = [f"[{name}](#{name})", outcome.steps, outcome.wrong or outcome.scores, cpu, outcome.masks]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name, outcome in found.items():
        lines += ["", f"## {name}", "", f"{KINDS[name].title}.", "", *(f"    {c}" for c in outcome.commands)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Parse arguments, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time", default="30s", help="of one training")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out.resolve()
    found = {name: try_kind(name, KINDS[name], data, out, arguments.time) for name in arguments.only}
    text = page(found, arguments.time)
    print(text)
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    return int(any(outcome.wrong for outcome in found.values()))


if __name__ == "__main__":
    sys.exit(main())
