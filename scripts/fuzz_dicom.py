"""Damage DICOM files at random and read them: ``python scripts/fuzz_dicom.py --files 2000 --seed 0``.

Small series (CT, PET, RLE, JPEG 2000, deflated), an enhanced MR image, an RTSTRUCT and a SEG are cut short,
bits are flipped, elements removed or filled with nonsense; one file of each at a time. Reading must end in `CaseError`
or in the geometry of the undamaged files, within ten seconds and a limit of memory.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.making import COLUMNS, ROWS, SLICES, SPACING, enhanced, rtstruct, save, slices

from differseg_med.errors import CaseError
from differseg_med.geometry import Grid, lattice_map
from differseg_med.io.dicom.files import quiet
from differseg_med.io.dicom.index import index_folder
from differseg_med.io.dicom.reader import read_volume
from differseg_med.io.labels import load_label

SECONDS = 10
MEMORY_BYTES = 2**31
"""What reading one damaged file may take more than the process already has."""

ANGLES = (20, -10, 5)


def make_series(folder: Path) -> dict[str, Path]:
    """The undamaged series by name."""
    series = {"ct": save(folder / "ct", slices(angles=ANGLES))}
    series["pet"] = save(folder / "pet", slices(modality="PT", angles=ANGLES, change=_pet))
    for name, syntax in (("rle", RLELossless), ("j2k", JPEG2000Lossless)):
        made = slices(angles=ANGLES, series=name)
        for dataset in made:
            dataset.compress(syntax, generate_instance_uid=False)
        series[name] = save(folder / name, made)
    made = slices(angles=ANGLES, series="deflated")
    for dataset in made:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    series["deflated"] = save(folder / "deflated", made)
    series["enhanced"] = save(folder / "enhanced", [enhanced(angles=ANGLES)])
    series["rtstruct"] = save(folder / "rtstruct", [_contours()])
    series["seg"] = save(folder / "seg", [_segmentation(slices(angles=ANGLES))])
    return series


def _pet(dataset: pydicom.FileDataset, number: int) -> None:
    dataset.Units, dataset.DecayCorrection, dataset.PatientWeight = "BQML", "START", "70"
    dataset.SeriesDate = dataset.AcquisitionDate = "20260101"
    dataset.SeriesTime = dataset.AcquisitionTime = "120000"
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{1 + number / 7:.8g}", "0"
    drug = pydicom.Dataset()
    drug.RadiopharmaceuticalStartTime = "110000"
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "350000000", "6586.2"
    dataset.RadiopharmaceuticalInformationSequence = [drug]


def _contours() -> pydicom.FileDataset:
    first = slices(angles=ANGLES)[0]
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    corners = [(2, 2), (12, 2), (12, 9), (2, 9)]
    planes = [np.array(dataset.ImagePositionPatient, dtype=float) for dataset in slices(angles=ANGLES)]
    square = np.array([row * SPACING[1] * x + column * SPACING[0] * y for x, y in corners])
    return rtstruct({"GTV": [plane + square for plane in planes[1:4]]})


def _segmentation(source: list[pydicom.FileDataset]) -> pydicom.FileDataset:
    for dataset in source:
        dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber, dataset.SeriesNumber = "", 1
    described = hd.seg.SegmentDescription(
        1, "GTV", codes.SCT.Organ, codes.SCT.Liver, hd.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    mask = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    mask[1:4, 2:9, 2:12] = 1
    uid = pydicom.uid.generate_uid
    with quiet():
        return hd.seg.Segmentation(
            source,
            mask,
            "BINARY",
            [described],
            uid(entropy_srcs=["s"]),
            1,
            uid(entropy_srcs=["i"]),
            1,
            "a",
            "b",
            "c",
            "d",
        )


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """Cut short."""
    return data[: int(random.integers(0, len(data)))]


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """Flip 1 to 20 bits, more often in the header."""
    changed = bytearray(data)
    end = len(data) if random.random() < 0.3 else min(len(data), 2000)
    for place in random.integers(132, max(end, 133), int(random.integers(1, 21))):
        if place < len(changed):
            changed[place] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


def strip(data: bytes, random: np.random.Generator) -> bytes:
    """Remove 1 to 5 elements."""
    return _edited(data, random, lambda dataset, tag: dataset.pop(tag))


def nonsense(data: bytes, random: np.random.Generator) -> bytes:
    """Fill 1 to 5 elements with zeros, ones, nothing or enormous numbers."""

    def fill(dataset: pydicom.Dataset, tag: pydicom.tag.BaseTag) -> None:
        element = dataset[tag]
        if element.VR in ("DS", "IS"):
            value: object = random.choice(["0", "-1", "1e9", "nan", "", "99999999"])
            count = max(element.VM, 1)
            element.value = [value] * count if count > 1 else value
        elif element.VR in ("US", "UL"):
            element.value = int(random.choice([0, 1, 32767, 65535]))
        elif element.VR in ("UI", "LO", "CS", "SH"):
            element.value = str(random.choice(["", "X", "1.2.3"]))

    return _edited(data, random, fill)


def _edited(
    data: bytes, random: np.random.Generator, edit: Callable[[pydicom.Dataset, pydicom.tag.BaseTag], object]
) -> bytes:
    dataset = pydicom.dcmread(BytesIO(data))
    tags = list(dataset)
    for index in random.choice(len(tags), int(random.integers(1, 6)), replace=False):
        edit(dataset, tags[index].tag)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


MUTATIONS = (cut, flip, strip, nonsense)


def damaged(series: dict[str, Path], files: int, seed: int) -> Iterator[tuple[str, str, Path]]:
    """Name of the series, kind of damage, and the damaged folder, one after another."""
    random = np.random.default_rng(seed)
    names = sorted(series)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(files):
            name, mutation = names[number % len(names)], MUTATIONS[number // len(names) % len(MUTATIONS)]
            folder = Path(scratch) / str(number)
            shutil.copytree(series[name], folder)
            victim = sorted(folder.iterdir())[int(random.integers(0, len(list(folder.iterdir()))))]
            with quiet():
                try:
                    victim.write_bytes(mutation(victim.read_bytes(), random))
                except Exception:  # pydicom will not write what it finds impossible: flip bits instead
                    victim.write_bytes(flip(victim.read_bytes(), random))
            yield name, mutation.__name__, folder
            shutil.rmtree(folder)


def outcome(name: str, folder: Path, image: Path) -> str:
    """``read``, ``refused``, or what is wrong.

    Args:
        name: which series it was.
        folder: damaged.
        image: the undamaged image of labels.
    """
    try:
        index_folder(folder)
        if name in ("rtstruct", "seg"):
            label = load_label(f"{folder}::GTV", [image])
            grid = Grid(label.shape[1:], label.affine.numpy())
        else:
            grid = read_volume(folder).grid
    except CaseError as error:
        text = str(error)
        return "refused" if "Doe" not in text and "4711" not in text else f"a patient's data in: {text}"
    if name == "enhanced":  # what it says of itself once, nothing contradicts
        return "read" if _says(folder, grid) else f"not the geometry of the file: {grid.affine.tolist()}"
    base = read_volume(image).grid
    return "read" if lattice_map(grid, base) is not None else f"wrong geometry: {grid.affine.tolist()}"


def _says(folder: Path, grid: Grid) -> bool:
    """Whether pydicom finds the grid's first voxel and spacing in the file of an enhanced image."""
    with quiet():
        dataset = pydicom.dcmread(next(folder.iterdir()))
        places = [
            frame.PlanePositionSequence[0].ImagePositionPatient for frame in dataset.PerFrameFunctionalGroupsSequence
        ]
        spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    first = grid.affine[:3, 3] * [-1, -1, 1]
    found = np.array(places, dtype=float)
    near = np.abs(found - first).max(axis=1).min() < 1e-3
    return bool(near and np.allclose(grid.spacing_mm[:2], [float(spacing[1]), float(spacing[0])]))


@contextmanager
def silent(*, raising: bool = True) -> Iterator[None]:
    """Keep the terminal clean.

    Raises:
        RuntimeError: if something was written, by a C library too.
    """
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            for descriptor, copy in zip((1, 2), kept):
                os.dup2(copy, descriptor)
                os.close(copy)
            file.seek(0)
            if raising and (said := file.read().decode("utf-8", "replace").strip()):
                raise RuntimeError(f"a library wrote to the terminal: {said[-200:]}")


@contextmanager
def limits() -> Iterator[None]:
    """Ten seconds and some memory."""

    def hang(*_: object) -> None:
        raise TimeoutError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, before[1]))
    signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(files: int, seed: int, *, keep: Path | None = None) -> tuple[Counter[str], list[str]]:
    """Damage and read ``files`` files; count outcomes, and list what must not happen."""
    counts: Counter[str] = Counter()
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        series = make_series(Path(scratch))
        for name in series:
            found = outcome(name, series[name], series["ct"])
            assert found == "read", f"undamaged {name}: {found}"
        for name, kind, folder in tqdm(damaged(series, files, seed), total=files, disable=None):
            start = time.process_time()  # other programs on the machine must not decide
            try:
                with limits(), silent():
                    found = outcome(name, folder, series["ct"])
            except BaseException as error:
                found = f"{type(error).__name__}: {error}"
                if isinstance(error, KeyboardInterrupt):
                    raise
            if time.process_time() - start > SECONDS:
                found = f"took {time.process_time() - start:.0f} s"
            counts[found if found in ("read", "refused") else "wrong"] += 1
            if found not in ("read", "refused"):
                bad.append(f"{name} {kind}: {found}")
                if keep is not None:
                    shutil.copytree(folder, keep / f"{len(bad):03d}_{name}_{kind}")
    return counts, bad


def main() -> None:
    """Run and report; exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # our own words are no faults
    counts, bad = fuzz(arguments.files, arguments.seed, keep=arguments.keep)
    print(f"{sum(counts.values())} files: {counts['read']} read, {counts['refused']} refused, {counts['wrong']} wrong")
    print("\n".join(bad))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
