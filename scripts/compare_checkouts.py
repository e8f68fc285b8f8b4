"""Do two checkouts of this repository write the same? Runs predict, evaluate and export of the shipped samples.

    git worktree add ../before COMMIT
    python scripts/compare_checkouts.py ../before . [--set look_every=1]

Every file that one of them writes is compared byte for byte, except for what `LEFT_OUT` names: those parts are taken
away first, and the table says where that was needed. The exit code is 0 if nothing else differs.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the series that the tests of DICOM are made from
from support import series as made  # noqa: E402

SARCOMA = "sts_petctmr_segmentation"
IMAGES2D = ("pothole_rgbd_segmentation", "davis_rgbflow_segmentation")
FORMATS = "nifti,seg.nrrd,probability,scene,bids,png"
SHAPE = (12, made.ROWS, made.COLUMNS)  # of the DICOM series

LEFT_OUT = {
    "pages and pictures": "*.html, report.json, overlays, subsets.png: what readers look at, not data",
    "words": "*.txt, *.md, scripts for 3D Slicer, notes and reasons in tables, descriptions, versions",
    "time": "the column seconds; dates and times of DICOM and JSON",
    "identifiers": "UIDs that are new in every file",
    "manifest": "run.json: when, from which files, by which code and arguments; not what came of it",
}
DRAWN = (".html", ".webp")
DRAWN_NAMES = ("report.json", "overlay.png", "subsets.png")
WORDS = (".txt", ".md", ".py", "README", "LICENSE")
COLUMNS = {"seconds", "reason", "notes", "notice", "flags", "remark", *FORMATS.split(",")}
"""Columns of tables that hold words or time."""
KEYS = {"policy", "settings", "intervals", "notices", "GeneratedBy", "Description", "Version", "HowToAcknowledge"}
"""Entries of JSON files that hold words."""
VALUE_REPRESENTATIONS = {"UI", "DA", "TM", "DT", "LO", "LT", "ST", "UT", "SH", "PN"}
"""Of DICOM attributes: identifiers, time, words. Codes (SH) are held by the tests of the exports."""

RUN = """
import json, sys
from differseg_med.cli import app
import differseg_med
print(differseg_med.__file__)
failed = []
for argv in json.loads(sys.argv[1]):
    try:
        app(argv, standalone_mode=True)
    except SystemExit as stop:
        if stop.code:
            failed.append(argv[0])
sys.exit(", ".join(failed) or 0)
"""


def commands(checkout: Path, dicom: Path, mask: Path, out: Path, settings: Sequence[str]) -> list[list[str]]:
    """The command lines that are run with a checkout, on its own bundles and samples."""
    lines = []
    for name in (SARCOMA, *IMAGES2D):
        bundle = checkout / "bundles" / name
        table, to = str(bundle / "sample" / "cohort.csv"), str(out / name)
        formats = ["--formats", FORMATS, *(f"--set={setting}" for setting in settings)] if name == SARCOMA else []
        lines.append(["predict", "--bundle", str(bundle), "--cohort", table, "--out", to, *formats])
        lines.append(["evaluate", "--predictions", to, "--cohort", table, "--out", str(out / f"{name}_measured")])
    segment = ["--bundle", str(checkout / "bundles" / SARCOMA)]
    for kind in ("nifti,seg.nrrd,scene,bids", "dicom-seg"):
        to = str(out / f"export_{kind.split(',')[0]}")
        lines.append(["export", str(mask), "--reference", str(dicom), "--formats", kind, "--out", to, *segment])
    return lines


def run(checkout: Path, out: Path, dicom: Path, mask: Path, settings: Sequence[str]) -> None:
    """Run the commands in one process with the code of a checkout.

    Raises:
        SystemExit: if one of them fails, or if it was other code that ran.
    """
    lines = commands(checkout, dicom, mask, out, settings)
    fixed = {"OMP_NUM_THREADS": "1", "DIFFERSEG_PRECISION": "float32"}  # as before a bundle could say amp: auto
    environment = os.environ | fixed | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or str(checkout) not in done.stdout.split("\n")[0]:
        raise SystemExit(f"{checkout.name} failed:\n{done.stdout[-800:]}\n{done.stderr[-3000:]}")


def make_series(folder: Path) -> tuple[Path, Path]:
    """A tilted DICOM series that is not there in the samples, and a mask on its grid."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(900, 1100, SHAPE).astype(np.uint16)
    series = made.write_series(folder / "series", made.TURNED, SHAPE[0], pixels=pixels)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    image = reader.Execute()
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:9, 1:6, 1:5] = rng.random((7, 5, 4)) < 0.7
    voxels = sitk.GetImageFromArray(mask)
    voxels.CopyInformation(image)
    sitk.WriteImage(voxels, str(folder / "mask.nii.gz"))
    return series, folder / "mask.nii.gz"


def compared(old: Path, new: Path) -> str:
    """``equal``, ``equal but for ...``, ``left out: ...`` or, beginning with ``DIFFERENT``, what differs."""
    if not old.exists() or not new.exists():
        return left_out(old) or f"DIFFERENT: only the {'new' if new.exists() else 'old'} one writes it"
    if old.read_bytes() == new.read_bytes():
        return "equal"
    if words := left_out(old):
        return words
    kinds = {".csv": _tables, ".json": _json, ".dcm": _dicom, ".tsv": _tables}
    compare = kinds.get(old.suffix, _volumes if old.name.endswith((".nii.gz", ".nrrd")) else None)
    return "DIFFERENT bytes" if compare is None else compare(old, new)


def left_out(path: Path) -> str:
    """Why a file is not compared; empty if it is."""
    if path.name == "run.json":
        return "left out: manifest"
    if path.suffix in DRAWN or path.name in DRAWN_NAMES or "overlays" in path.parts:
        return "left out: pages and pictures"
    return "left out: words" if path.suffix in WORDS or path.name in WORDS else ""


def _tables(old: Path, new: Path) -> str:
    def cells(path: Path) -> tuple[set[str], list[dict[str, Any]]]:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        kept = [{k: v for k, v in row.items() if k not in COLUMNS} for row in rows]
        return {name for row in rows for name in row}, kept

    (old_names, a), (new_names, b) = cells(old), cells(new)
    if a != b or old_names - COLUMNS != new_names - COLUMNS:
        return f"DIFFERENT rows: {[(x, y) for x, y in zip(a, b) if x != y][:1]}"
    return "equal but for words and time"


def _json(old: Path, new: Path) -> str:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in KEYS}
        return [without(v) for v in value] if isinstance(value, list) else value

    a, b = (without(json.loads(path.read_text(encoding="utf-8"))) for path in (old, new))
    return "equal but for words" if a == b else "DIFFERENT entries"


def _dicom(old: Path, new: Path) -> str:
    a, b = (pydicom.dcmread(path) for path in (old, new))
    skipped: Counter[str] = Counter()

    def elements(dataset: pydicom.Dataset, place: str = "") -> Iterator[tuple[str, Any]]:
        for element in dataset:
            name = f"{place}{element.keyword or element.tag}"
            if element.VR == "SQ":
                for number, item in enumerate(element.value):
                    yield from elements(item, f"{name}[{number}].")
            elif element.VR in VALUE_REPRESENTATIONS:
                skipped[element.VR] += 1
                yield name, None
            else:
                yield name, element.value

    first, second = dict(elements(a)), dict(elements(b))
    differing = [name for name in {**first, **second} if first.get(name, "none") != second.get(name, "none")]
    return f"DIFFERENT attributes: {differing[:5]}" if differing else "equal but for identifiers, time and words"


def _volumes(old: Path, new: Path) -> str:
    if old.suffix == ".gz":
        a, b = (gzip.decompress(path.read_bytes()) for path in (old, new))
        if a == b:
            return "equal but for the time in gzip's header"
        images = [nib.load(path) for path in (old, new)]
        voxels = [np.asarray(image.dataobj) for image in images]
        if voxels[0].shape != voxels[1].shape:
            return "DIFFERENT shapes"
        return f"DIFFERENT: {int((voxels[0] != voxels[1]).sum())} voxels, largest {np.ptp(voxels[0] - voxels[1]):g}"
    (a, rest), (b, other) = (path.read_bytes().split(b"\n\n", 1) for path in (old, new))
    lines = [x for x in a.split(b"\n") if x not in b.split(b"\n")]
    return f"DIFFERENT header {lines[:2]}" if rest == other else "DIFFERENT voxels"


def main() -> int:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="checkout to compare with")
    parser.add_argument("new", type=Path, help="checkout to judge")
    parser.add_argument("--keep", type=Path, help="folder for what they write; default: a temporary one")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the sarcoma bundle, for both: what a commit between them has changed on purpose",
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        series, mask = make_series(folder)
        outputs = {}
        for name in ("old", "new"):
            outputs[name] = folder / name
            outputs[name].mkdir()
            run(getattr(chosen, name).resolve(), outputs[name], series, mask, chosen.settings)
        return report(outputs["old"], outputs["new"])


def report(old: Path, new: Path) -> int:
    """Print one line per file and the verdict; 1 if something differs."""
    names = sorted({str(p.relative_to(root)) for root in (old, new) for p in root.rglob("*") if p.is_file()})
    verdicts = {name: compared(old / name, new / name) for name in names}
    width = max(map(len, names))
    for name, verdict in verdicts.items():
        print(f"{name:{width}}  {verdict}")
    print("\nNot compared:")
    for what, words in LEFT_OUT.items():
        print(f"  {what}: {words}")
    counts = Counter(verdict.split(":")[0].split(" but")[0].split(" ")[0] for verdict in verdicts.values())
    different = [name for name, verdict in verdicts.items() if verdict.startswith("DIFFERENT")]
    print(f"\n{len(names)} files: {dict(counts)}")
    print(f"VERDICT: {'different: ' + ', '.join(different) if different else 'the same'}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
