"""Damage image files, tables and rule files at random and read them.

    python scripts/fuzz_files.py --files 1500 --seed 0

Small NIfTI, NRRD, MetaImage, 3D Slicer, PNG, JPEG and TIFF files, a cohort table and a rule file are damaged in their
header (fields get nonsense, lines go, stand twice or get other numbers) or in their body (bits flip, the end is
missing), and read in a process of their own. Reading must end in `CaseError`, or in what independent readers find:
nibabel and SimpleITK, pynrrd, the header's own numbers, Pillow and OpenCV. A body with a checksum must be refused, or
give the voxels of the undamaged file. No file may take ten seconds or 2 GB, or end the process.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import logging
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import nrrd
import numpy as np
import SimpleITK as sitk
from monai.data import MetaTensor
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_dicom import limits, silent

from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.table import read_cohort, table_modalities
from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, affine_from_itk, affine_to_itk, check_affine, grid_distance_mm
from differseg_med.io.headers import itk_affine, read_header
from differseg_med.io.labels import load_label
from differseg_med.io.slicer_header import read_segmentation_header
from differseg_med.io.volumes import load_volume

SHAPE = (9, 8, 7)
AFFINE = np.array([[-0.9, 0.1, 0, 40], [0.1, 0.9, 0, -30], [0, 0, 2.5, -10], [0, 0, 0, 1.0]])
VOXELS = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
SUMMED = ("t1.nii.gz", "packed.nrrd", "packed.mha", "mask.seg.nrrd", "picture.png")
"""Files whose bodies carry a checksum."""

KINDS = "kinds of damage"
"""Name under which headers and bodies are counted."""

NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    255,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**63,
    -(2**31),
    1e-30,
    1e30,
    float("nan"),
    float("inf"),
)
WORDS = (
    "",
    "nan",
    "none",
    "/etc/passwd",
    "../x.raw",
    "LIST",
    "%03d.raw",
    "(0,0,0)",
    "MET_OTHER",
    "um",
    "ä" * 9,
    "x" * 600,
)

TABLE = "case_id,t1,ct,label,split,fold\na,a.nii.gz,,m.nii.gz,train,0\nb,b.nii.gz,c.nii.gz,,test,\n"
RULES = """words: {t: 't1'}
modalities:
  - {name: t1, description: '{t}.*w', where: {EchoTime: '< 30'}}
labels:
  - {roi: gtv}
"""


def make_files(folder: Path) -> dict[str, bytes]:
    """The undamaged files by name."""
    nib.save(nib.Nifti1Image(VOXELS, AFFINE), folder / "t1.nii")
    image = sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T))
    spacing, origin, direction = affine_to_itk(AFFINE)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    for name in ("t1.nrrd", "packed.nrrd", "t1.mha", "packed.mha"):
        sitk.WriteImage(image, str(folder / name), useCompression=name.startswith("packed"))
    segment = sitk.Cast(image > 450, sitk.sitkUInt8)
    for key, value in (("Name", "GTV"), ("ID", "1"), ("Layer", "0"), ("LabelValue", "1"), ("Extent", "0 8 0 7 0 6")):
        segment.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(segment, str(folder / "mask.seg.nrrd"), useCompression=True)
    pixels = np.random.default_rng(1).integers(0, 255, (24, 20, 3)).astype(np.uint8)
    for name in ("picture.png", "picture.jpg", "picture.tif"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "cohort.csv").write_text(TABLE, encoding="utf-8")
    (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return found | {"t1.nii.gz": gzip.compress(found["t1.nii"], mtime=0)}


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """Cut short."""
    return data[: int(random.integers(0, len(data)))]


def flip(data: bytes, random: np.random.Generator, start: int = 0) -> bytes:
    """Flip one to three bits."""
    changed = bytearray(data)
    for place in random.integers(min(start, len(data) - 1), len(data), int(random.integers(1, 4))):
        changed[place] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


def nifti_fields(data: bytes, random: np.random.Generator) -> bytes:
    """Fill one to three fields of a NIfTI header with nonsense."""
    header = nib.Nifti1Header(data[:348], check=False).structarr.copy()
    for name in random.choice(["dim", "pixdim", *header.dtype.names], int(random.integers(1, 4))):
        field = np.atleast_1d(header[name])
        if field.dtype.kind not in "SV":
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                field[int(random.integers(0, field.size))] = np.array(random.choice(NUMBERS)).astype(field.dtype)
            header[name] = field if field.size > 1 else field[0]
    return header.tobytes() + data[348:]


def text_lines(data: bytes, random: np.random.Generator) -> bytes:
    """Change one to three lines of a text: gone, twice, another number, another word."""
    end = next((data.index(mark) + len(mark) for mark in (b"\n\n", b"LOCAL\n") if mark in data), len(data))
    lines = data[:end].decode("utf-8", "replace").split("\n")
    for _ in range(int(random.integers(1, 4))):
        number, what = int(random.integers(0, len(lines))), int(random.integers(0, 4))
        if what == 0:
            lines[number] = ""
        elif what == 1:
            lines.insert(number, lines[number])
        elif what == 2:
            lines[number] = re.sub(r"-?\d+(\.\d+)?", lambda _: str(random.choice(NUMBERS)), lines[number], count=1)
        else:
            lines[number] = re.sub(r"([:=] ?).*", lambda m: m[1] + str(random.choice(WORDS)), lines[number])
    return "\n".join(lines).encode() + data[end:]


def damaged(originals: dict[str, bytes], files: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Name, kind of damage (``header`` or ``body``), and content, one after another."""
    random = np.random.default_rng(seed)
    names = sorted(originals)
    for number in range(files):
        name, data = names[number % len(names)], originals[names[number % len(names)]]
        in_header = random.random() < 0.7
        if in_header and ".nii" in name:
            changed = nifti_fields(originals["t1.nii"], random)
            yield name, "header", gzip.compress(changed) if name.endswith("gz") else changed
        elif in_header and not name.startswith("picture"):
            yield name, "header", text_lines(data, random)
        else:
            start = next((data.index(mark) + len(mark) for mark in (b"\n\n", b"LOCAL\n") if mark in data), 10)
            change: Callable[[bytes, np.random.Generator], bytes] = cut if random.random() < 0.3 else flip
            yield (
                name,
                "body",
                data[:start] + change(data[start:], random) if start < len(data) else change(data, random),
            )


def outcome(path: Path, kind: str, original: Path) -> str:
    """``read``, ``refused``, or what is wrong.

    Args:
        path: damaged.
        kind: where.
        original: the undamaged file.
    """
    try:
        with limits():
            return _outcome(path, kind, original)
    except CaseError as error:
        return "memory" if "MemoryError" in str(error) else "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:200]}"


def _outcome(path: Path, kind: str, original: Path) -> str:
    with silent():
        volume = _read(path)
        if kind == "body" and path.name in SUMMED and not np.array_equal(volume, _read(original)):
            return "a damaged body was accepted"
    if volume is None:
        return "read"
    grid = Grid(volume.shape[1:], np.asarray(volume.affine, dtype=np.float64))
    with silent(raising=False):
        places = list(_elsewhere(path, grid))
    wrong = [word for word, place in places if place.shape != grid.shape or grid_distance_mm(place, grid) > 1e-2]
    return f"not the geometry of {', '.join(wrong)}: {grid.shape} {grid.affine.tolist()}" if wrong else "read"


def _read(path: Path) -> MetaTensor | None:
    """Read a file as the commands do; the volume, if it is one."""
    name = path.name
    if name.endswith(".csv"):
        read_cohort(path, table_modalities(path) or ("t1",))
        return None
    if name.endswith(".yaml"):
        rules = load_rules(path)
        rules.match_file("t1w")
        rules.match_series({"SeriesDescription": "t1w", "EchoTime": "20"})
        return None
    if not name.startswith("picture"):
        (read_segmentation_header if ".seg." in name else read_header)(path)  # as a scan does
    return (load_label if ".seg." in name else load_volume)(path)


def _elsewhere(path: Path, grid: Grid) -> Iterator[tuple[str, Grid]]:
    """Where independent readers put the voxels, each as a grid that ours should be."""
    if path.name.startswith("picture"):
        with Image.open(path) as image:
            yield "Pillow", Grid((image.height, image.width, 1), grid.affine)
        if (pixels := cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) is not None:
            yield "OpenCV", Grid((*pixels.shape[:2], 1), grid.affine)
    elif ".nii" in path.name:
        yield from _nifti(path, grid)
    else:
        image = sitk.ReadImage(str(path))
        yield "SimpleITK", Grid(grid.shape, itk_affine(image))
        yield from _nrrd(path, grid) if path.name.endswith("nrrd") else _meta(path, grid)


def _nifti(path: Path, grid: Grid) -> Iterator[tuple[str, Grid]]:
    image: Any = nib.load(path)
    scale = {1: 1000.0, 3: 0.001}.get(int(image.header["xyzt_units"]) & 7, 1.0)
    yield "nibabel", Grid(image.shape[:3], np.diag([scale, scale, scale, 1.0]) @ image.affine)
    header = read_header(path).nifti
    assert header is not None
    try:
        other = sitk.ReadImage(str(path))
    except RuntimeError:
        return
    # SimpleITK may take the other transform; then it must be where we say that it puts the voxels.
    place = Grid(grid.shape, itk_affine(other))
    said = header.itk_affine
    if said is None or (grid_distance_mm(place, Grid(grid.shape, said)) > 1e-2 and not check_affine(said)):
        yield "SimpleITK", place


def _nrrd(path: Path, grid: Grid) -> Iterator[tuple[str, Grid]]:
    try:
        header = nrrd.read_header(str(path))
        directions, origin = np.array(header["space directions"], float), np.array(header["space origin"], float)
        space = header["space"].lower()
    except (nrrd.NRRDError, KeyError, ValueError, AttributeError):
        return
    if directions.shape != (3, 3) or origin.shape != (3,):
        return
    signs = np.array([1.0 if word in space else -1.0 for word in ("right", "anterior", "superior")])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions.T * signs[:, None], origin * signs
    yield "pynrrd", Grid(tuple(int(n) for n in header["sizes"][-3:]), affine)


def _meta(path: Path, grid: Grid) -> Iterator[tuple[str, Grid]]:
    text = path.read_bytes().partition(b"ElementDataFile")[0].decode("utf-8", "replace")
    fields = {key.strip(): value.split() for key, _, value in (line.partition("=") for line in text.split("\n"))}
    try:
        turn, offset, spacing = (
            np.array(fields[name], float) for name in ("TransformMatrix", "Offset", "ElementSpacing")
        )
        shape = tuple(int(n) for n in fields["DimSize"])
    except (KeyError, ValueError):
        return
    if len(turn) == 9:
        yield "its own numbers", Grid(shape, affine_from_itk(spacing, offset, turn.reshape(3, 3).T.ravel()))


def fuzz(files: int, seed: int, *, keep: Path | None = None) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Damage and read ``files`` files; count outcomes by name of the file, and list what must not happen."""
    counts: Counter[tuple[str, str]] = Counter()
    bad: list[str] = []
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch, "whole"), Path(scratch, "broken")
        whole.mkdir()
        broken.mkdir()
        originals = make_files(whole)
        (whole / "t1.nii.gz").write_bytes(originals["t1.nii.gz"])
        pool = ProcessPoolExecutor(1, mp_context=get_context("fork"))
        for name in originals:
            found = pool.submit(outcome, whole / name, "none", whole / name).result()
            assert found == "read", f"undamaged {name}: {found}"
        for name, kind, data in tqdm(damaged(originals, files, seed), total=files, disable=None):
            (broken / name).write_bytes(data)
            try:
                found = pool.submit(outcome, broken / name, kind, whole / name).result()
            except BrokenProcessPool:
                found = "the process died"
                pool = ProcessPoolExecutor(1, mp_context=get_context("fork"))
            counts[name, found if found in ("read", "refused") else "wrong"] += 1
            counts[KINDS, kind] += 1
            if found not in ("read", "refused"):
                bad.append(f"{name} {kind}: {found}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{len(bad):03d}_{kind}_{name}").write_bytes(data)
        pool.shutdown()
    return counts, bad


def main() -> None:
    """Run and report; exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # our own words are no faults
    counts, bad = fuzz(arguments.files, arguments.seed, keep=arguments.keep)
    writer = csv.writer(sys.stdout)
    writer.writerow(("file", "read", "refused", "wrong"))
    for name in sorted({name for name, _ in counts if name != KINDS}):
        writer.writerow((name, *(counts[name, what] for what in ("read", "refused", "wrong"))))
    headers, bodies = counts[KINDS, "header"], counts[KINDS, "body"]
    print(f"{headers} headers and {bodies} bodies, seed {arguments.seed}: {len(bad)} wrong")
    print("\n".join(bad))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
