"""Cohort tables from folders of pictures: ``<split>/{image,depth,thermal,flow,mask}/NAME.ext``, paired by NAME."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import ExifTags, Image

from differseg_med.case import Case
from differseg_med.cohort.scan.rule_file import compiled
from differseg_med.errors import CaseError

IMAGE2D_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

#: What folders of splits are called, and what the cohort table calls them.
_SPLITS = {
    **dict.fromkeys(("train", "training", "traindataset", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valdataset"), "validation"),
    **dict.fromkeys(("test", "testing", "testdataset", "testset"), "test"),
}


@dataclass(frozen=True)
class Found:
    """What the folders hold.

    Args:
        cases: one per NAME that has all of its files, by split and name.
        left_out: in words, what was not used: files without partners, names that two files of a folder share.
        resized: in words, pictures of another size than the first modality; they will be resized to it.
    """

    cases: tuple[Case, ...]
    left_out: tuple[str, ...]
    resized: tuple[str, ...]


def find_images2d(
    root: str | Path,
    modalities: Mapping[str, str],
    mask: str | None = None,
    *,
    foreground: str = "white",
    sequence: str | None = None,
) -> Found:
    """Pair the pictures under ``root`` by their names without ending.

    Args:
        root: holds the folders of the modalities, or a folder per split that does.
        modalities: name of the folder by column of the table; the first must be there for every case.
        mask: folder of the masks; None if there are none.
        foreground: ``white`` or ``black``, what is 1 in the masks; it goes into the cells of the table.
        sequence: regular expression; the part of NAME that it matches is the subject, so that frames of one video stay
            together. None makes each picture a subject of its own.

    Raises:
        CaseError: if ``sequence`` is no regular expression, the folders are not there, or no picture has all of its
            partners.
    """
    video = compiled("--sequence", sequence) if sequence else None
    folders = [folder for folder in (*modalities.values(), mask) if folder]
    cases: list[Case] = []
    left_out: list[str] = []
    for split, parent in _splits(Path(root), folders).items():
        files = {folder: _by_name(parent, folder, left_out) for folder in folders}
        names = sorted(set[str]().union(*files.values()))
        for name in names:
            missing = [folder for folder in folders if name not in files[folder]]
            if missing:
                left_out.append(f"{_label(split, name)}: nothing in {', '.join(missing)}")
                continue
            label = None if mask is None else Path(f"{files[mask][name]}::{foreground}")
            images = {column: files[folder][name] for column, folder in modalities.items()}
            cases.append(Case(name, _sequence_of(name, video), images, label, split))
    if not cases:
        raise CaseError(
            "no image has a file of every modality",
            file=root,
            expected=f"files of equal names in {', '.join(folders)}",
            found="; ".join(left_out[:3]) or "no images",
        )
    cases = _with_own_ids(cases)
    return Found(tuple(cases), tuple(left_out), tuple(_other_sizes(cases)))


def with_validation(cases: Sequence[Case], every: int = 0, last: int = 0) -> tuple[Case, ...]:
    """Set the split of all cases to train or validation, whole subjects at a time, in the order of their names.

    Args:
        cases: any.
        every: of every so many subjects the first is for validation.
        last: so many of the last subjects are for validation.
    """
    subjects = sorted({case.subject_id for case in cases})
    chosen = set(subjects[::every] if every else []) | set(subjects[len(subjects) - last :])
    return tuple(replace(c, split="validation" if c.subject_id in chosen else "train") for c in cases)


def _splits(root: Path, folders: Sequence[str]) -> dict[str, Path]:
    """The folders that hold those of the modalities, by split; the root itself has none."""
    if not root.is_dir():
        raise CaseError("there is no such folder", file=root)
    if all((root / folder).is_dir() for folder in folders):
        return {"": root}
    inner = [path for path in sorted(root.iterdir()) if all((path / folder).is_dir() for folder in folders)]
    if not inner:
        raise CaseError(
            "the folders of the modalities are not here",
            file=root,
            expected=f"{', '.join(folders)}, or a folder per split with these in it",
            found=", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:8]) or "no folders",
            remedy="Name the folders with --modalities and --mask, for example rgb=RGB,thermal=T and GT.",
        )
    return {_SPLITS.get(path.name.lower(), path.name): path for path in inner}


def _by_name(parent: Path, folder: str, left_out: list[str]) -> dict[str, Path]:
    """The pictures of a folder by name without ending."""
    files = [p for p in sorted((parent / folder).iterdir()) if p.suffix.lower() in IMAGE2D_SUFFIXES and p.is_file()]
    counts = Counter(path.stem for path in files)
    left_out += [f"{folder}/{name}: {n} files of that name" for name, n in sorted(counts.items()) if n > 1]
    return {path.stem: path for path in files if counts[path.stem] == 1}


def _other_sizes(cases: Sequence[Case]) -> Iterator[str]:
    for case in cases:
        sizes = {column: _size(path) for column, path in case.images.items()}
        first, *others = sizes
        for column in others:
            if sizes[first] and sizes[column] and sizes[column] != sizes[first]:
                yield f"{case.case_id}: {column} has {_pixels(sizes[column])} pixels, {first} {_pixels(sizes[first])}"


def _size(path: Path) -> tuple[int, int] | None:
    """Rows and columns from the file's header as people see them; None if it is no picture, which reading will tell."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return image.size if turned else (image.height, image.width)
    except (OSError, ValueError):
        return None


def _pixels(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _sequence_of(name: str, sequence: re.Pattern[str] | None) -> str:
    """The video that a frame is of; nothing for a picture by itself."""
    match = sequence.match(name) if sequence else None
    return match.group(match.lastindex or 0) if match else ""


def _label(split: str, name: str) -> str:
    return f"{split}/{name}" if split else name


def _with_own_ids(cases: Sequence[Case]) -> list[Case]:
    """Ids that are folder names, and of their own where two splits use one name; so are subjects without a video."""
    counts = Counter(case.case_id for case in cases)
    ids = [c.case_id if counts[c.case_id] == 1 else f"{c.split}_{c.case_id}" for c in cases]
    ids = [re.sub(r'[/\\:*?"<>|]', "_", own) for own in ids]
    return [replace(case, case_id=own, subject_id=case.subject_id or own) for case, own in zip(cases, ids)]
