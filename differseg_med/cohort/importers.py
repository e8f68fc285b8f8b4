"""Data sets in known layouts as cases: nnU-Net raw, Medical Segmentation Decathlon (MSD), BIDS, and path patterns.

Readers here look at names and JSON only. They return an `Imported`, which `differseg_med.cohort.exporters` writes.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from differseg_med.case import OWN_COLUMNS, Case
from differseg_med.cohort.scan.rule_file import compiled
from differseg_med.errors import CaseError
from differseg_med.io.headers import is_second_of_pair, is_volume_file, read_header, stem
from differseg_med.modality import KINDS, kind_of_channel
from differseg_med.paths import unsafe

SKIP, ZEROS = "skip", "zeros"
"""What becomes of a case with an absent modality in a layout that knows no absence: left out, or zeros."""

COLUMNS = "differseg_med_columns"
"""Entry of a ``dataset.json`` that we wrote: column and kind of each channel, whose names there only say how nnU-Net is
to normalize it (two phases of CT are both called CT)."""


@dataclass(frozen=True)
class Imported:
    """What a layout holds.

    Args:
        modalities: columns of the table.
        cases: rows.
        stacked: files of several channels by case id; they have to be split, one file per modality.
        notes: what the user should know.
        kinds: kind of image of each modality, as far as the data set says it.
        classes: values of each class or region of the labels, by its name: ``{"core": "2,3"}``.
    """

    modalities: tuple[str, ...]
    cases: tuple[Case, ...]
    stacked: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)

    def foreground(self, text: str) -> str:
        """The values of ``edema``, ``core,edema`` or ``1,2,3``: names of classes or regions become their values.

        Raises:
            CaseError: for a name that the data set does not have.
        """
        if text in self.classes:
            return self.classes[text]
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if unknown := [p for p in parts if p not in self.classes and not re.fullmatch(r"-?\d+(\.\d+)?|>=.+", p)]:
            known = ", ".join(f"{name} ({values})" for name, values in self.classes.items()) or "values: 1,2,3"
            raise CaseError(f"--foreground {unknown[0]} is no class or region of the data set", expected=known)
        return ",".join(dict.fromkeys(v for part in parts for v in self.classes.get(part, part).split(",")))

    def tested(self, pattern: str) -> Imported:
        """The same with cases split "test", without a fold: those whose id a regular expression finds something in, and
        others of the same patients.

        Raises:
            CaseError: if it is no regular expression, or fits no case: then those would be trained on.
        """
        fits = compiled("--test", pattern)
        patients = {case.subject_id for case in self.cases if fits.search(case.case_id)}
        if not patients:
            raise CaseError(
                f"--test {pattern} fits no case",
                expected="a part of a case id, as a regular expression",
                found=", ".join(case.case_id for case in self.cases[:3]),
            )
        cases = [replace(c, split="test", fold="") if c.subject_id in patients else c for c in self.cases]
        return replace(self, cases=tuple(cases))


def read_nnunet(root: str | Path, splits: str | Path | None = None) -> Imported:
    """An nnU-Net raw data set (``DatasetXXX_Name``, version 1 or 2 of ``dataset.json``).

    Args:
        root: folder with ``dataset.json``.
        splits: ``splits_final.json``, for the columns fold and split: the cases that the first entry validates on are
            for validation. Without it that in ``root``, if any, fills fold only.

    Raises:
        CaseError: for a missing or unreadable ``dataset.json``, or no training case.
    """
    root = Path(root)
    info = _json(root / "dataset.json")
    channels = info.get("channel_names") or info.get("modality")
    if not isinstance(channels, Mapping):
        raise CaseError("dataset.json names no channels", file=root / "dataset.json", expected="channel_names")
    kinds = _columns(root / "dataset.json", channels, info.get(COLUMNS))
    modalities = tuple(kinds)
    ending = str(info.get("file_ending", ".nii.gz"))
    cases = [
        *_nnunet_cases(root, "imagesTr", "labelsTr", modalities, ending, "train", info.get("dataset") or {}),
        *_nnunet_cases(root, "imagesTs", "labelsTs", modalities, ending, "test", {}),
    ]
    if not cases:
        raise CaseError("no image was found", file=root / "imagesTr", expected=f"files CASE_0000{ending}")
    told = _folds(Path(splits) if splits else root / "splits_final.json")
    cases = [replace(case, fold=told.get(case.case_id, "")) for case in cases]
    if splits:
        cases = [replace(case, split="validation") if case.fold == "0" else case for case in cases]
    notes = tuple(f"{c.case_id} lacks {m}" for c in cases for m in modalities if m not in c.images)
    classes = _classes(info.get("labels", {}))
    return Imported(modalities, tuple(cases), notes=notes, kinds=_known(kinds), classes=classes)


def _folds(splits: Path) -> dict[str, str]:
    """Fold of each case of a ``splits_final.json``; empty if there is none."""
    if not splits.is_file():
        return {}
    try:
        return {str(case): str(n) for n, fold in enumerate(_json(splits)) for case in fold["val"]}
    except (KeyError, TypeError) as error:
        raise CaseError(
            "the splits are not in nnU-Net's form", file=splits, expected='[{"train": [...], "val": [...]}, ...]'
        ) from error


def _nnunet_cases(
    root: Path,
    images: str,
    labels: str,
    modalities: Sequence[str],
    ending: str,
    split: str,
    explicit: Mapping[str, Any],
) -> Iterator[Case]:
    for case_id, entry in sorted(explicit.items()):
        files = {m: root / name for m, name in zip(modalities, entry["images"])}
        yield Case(case_id, case_id, files, root / entry["label"], split)
    folder = root / images
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() and not explicit else []
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    for case_id in dict.fromkeys(hit[1] for hit in map(pattern.fullmatch, names) if hit):
        files = {m: folder / f"{case_id}_{n:04d}{ending}" for n, m in enumerate(modalities)}
        label = root / labels / f"{case_id}{ending}"
        present = {m: path for m, path in files.items() if path.name in names}
        yield Case(case_id, case_id, present, label if label.is_file() else None, split)


def read_msd(path: str | Path) -> Imported:
    """An MSD (Decathlon) data set: ``dataset.json`` with 4-D files, or with lists of files as Auto3DSeg has them.

    Args:
        path: ``dataset.json`` or its folder.

    Raises:
        CaseError: for an unreadable file, one without modalities or cases, or images with another number of channels.
    """
    path = Path(path)
    path = path / "dataset.json" if path.is_dir() else path
    info = _json(path)
    names = info.get("modality")
    if not isinstance(names, Mapping):
        raise CaseError("dataset.json names no modalities", file=path, expected='"modality": {"0": "T1", ...}')
    kinds = _columns(path, names, info.get(COLUMNS))
    modalities = tuple(kinds)
    cases, stacked = [], {}
    for key, split in (("training", "train"), ("validation", "validation"), ("test", "test"), ("testing", "test")):
        same = key == "testing" and info.get(key) == info.get("test")  # as we write it, for readers of either
        for entry in () if same else info.get(key, ()):
            item = entry if isinstance(entry, Mapping) else {"image": entry}
            case, channels = _msd_case(path, item, modalities, split)
            cases.append(case)
            if channels is not None:
                stacked[case.case_id] = channels
    if not cases:
        raise CaseError("dataset.json lists no case", file=path, expected="entries under training")
    return Imported(modalities, tuple(cases), stacked, (), _known(kinds), _classes(info.get("labels", {})))


def _msd_case(path: Path, item: Mapping[str, Any], modalities: Sequence[str], split: str) -> tuple[Case, Path | None]:
    names = [item["image"]] if isinstance(item["image"], str) else list(item["image"])
    files = [path.parent / name for name in names]
    label = path.parent / item["label"] if item.get("label") else None
    case_id = stem((label or files[0]).name)
    fold = str(item["fold"]) if "fold" in item else ""
    case = Case(case_id, str(item.get("subject_id") or case_id), {}, label, split, fold)
    if len(files) == 1 and len(modalities) > 1:
        channels = read_header(files[0], several=True).channels
        if channels != len(modalities):
            found = f"{channels}"
            raise CaseError("other channels than modalities", case=case_id, file=files[0], found=found)
        return case, files[0]
    if len(files) != len(modalities):
        expected = f"{len(modalities)} images ({', '.join(modalities)})"
        raise CaseError("other images than modalities", case=case_id, file=path, expected=expected, found=len(files))
    return replace(case, images=dict(zip(modalities, files))), None


#: BIDS suffixes of images that are not functional or raw phase data.
BIDS_SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "SWI", "adc", "ADC", "dwi", "pet", "ct", "T1map", "T2map")


def read_bids(root: str | Path, mask: str = "") -> Imported:
    """A BIDS data set: images of ``sub-*/[ses-*/]anat|dwi|pet|ct``, masks among its derivatives.

    Modalities are the suffixes, with ``ce`` for images with contrast (``t1w``, ``t1w_ce``, ``flair``). Of several
    acquisitions or runs the first by name is taken and noted. Columns of ``participants.tsv`` are kept.

    Args:
        root: folder of the data set.
        mask: regex on the name of the mask, where there are several per session.

    Raises:
        CaseError: if no image is found, or ``mask`` is no regular expression.
    """
    root, chosen = Path(root), compiled("--mask", mask)
    sessions: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.glob("sub-*/**/*")):
        hit = re.search(r"_([A-Za-z0-9]+)$", stem(path.name))
        if not is_volume_file(path) or is_second_of_pair(path) or hit is None or hit[1] not in BIDS_SUFFIXES:
            continue
        modality = hit[1].lower() + ("_ce" if "_ce-" in path.name else "")
        sessions.setdefault(_session(path.name), {}).setdefault(modality, []).append(path)
    if not sessions:
        raise CaseError("no BIDS image was found", file=root, expected="sub-*/anat/sub-*_T1w.nii.gz and the like")
    masks = [p for p in sorted(root.glob("derivatives/**/sub-*")) if re.search(r"_(mask|dseg)$", stem(p.name))]
    participants = _participants(root / "participants.tsv")
    modalities = tuple(sorted({m for files in sessions.values() for m in files}))
    cases, notes = [], []
    for session, files in sorted(sessions.items()):
        own = [p for p in masks if _session(p.name) == session and chosen.search(p.name)]
        notes += [f"{session}: {len(f)} images are {m}, {f[0].name} is taken" for m, f in files.items() if len(f) > 1]
        notes += [f"{session}: {len(own)} masks, {own[0].name} is taken"] if len(own) > 1 else []
        subject = session.split("_")[0]
        label, images = (own[0] if own else None), {m: files[m][0] for m in modalities if m in files}
        cases.append(Case(session, subject, images, label, extra=dict(participants.get(subject, {}))))
    kinds = {m: "mr" if m not in KINDS else m for m in modalities}  # pet, ct, or a suffix of MR
    return Imported(modalities, tuple(cases), notes=tuple(notes), kinds=kinds)


def _session(name: str) -> str:
    """``sub-01_ses-02`` of a BIDS file name."""
    return "_".join(part for part in name.split("_") if part.startswith(("sub-", "ses-")))


def _participants(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    taken = {"participant_id", *OWN_COLUMNS}
    return {
        row["participant_id"]: {k: v for k, v in row.items() if k not in taken and v not in (None, "n/a")}
        for row in rows
    }


def read_pattern(root: str | Path, patterns: Mapping[str, str]) -> Imported:
    """Any regular layout, by one pattern of paths per column.

    Args:
        root: folder that the patterns start from.
        patterns: column (modality or ``label``) to a path with ``{case}`` in it, and ``*`` for any part of a name, for
            example ``{"t1": "{case}/t1.nii.gz", "label": "masks/{case}_*.nii.gz"}``. A path may be a DICOM folder.
            ``{subject}`` groups cases: ``{subject}/{case}/t1.nii.gz``.

    Raises:
        CaseError: for a pattern without ``{case}``, one that nothing fits, or two files for one cell.
    """
    root = Path(root)
    paths = sorted(path.relative_to(root).as_posix() for path in _everything(root))
    cells: dict[str, dict[str, Path]] = {}
    subjects: dict[str, str] = {}
    for column, pattern in patterns.items():
        hits = [hit for hit in map(_regex(pattern).fullmatch, paths) if hit]
        if not hits:
            raise CaseError(f"nothing fits the pattern of {column}", file=root, expected=pattern)
        for hit in hits:
            case = hit["case"]
            if column in cells.setdefault(case, {}):
                raise CaseError(f"two paths fit the pattern of {column}", case=case, file=root, expected=pattern)
            cells[case][column] = root / hit[0]
            subjects.setdefault(case, hit.groupdict().get("subject") or case)
    modalities = tuple(name for name in patterns if name != "label")
    cases = [
        Case(case, subjects[case], {m: own[m] for m in modalities if m in own}, own.get("label"))
        for case, own in sorted(cells.items())
    ]
    empty = [f"{case.case_id} has a label but no image" for case in cases if not case.images]
    return Imported(modalities, tuple(case for case in cases if case.images), notes=tuple(empty))


def _regex(pattern: str) -> re.Pattern[str]:
    if "{case}" not in pattern:
        raise CaseError(f"the pattern {pattern!r} has no {{case}}", expected="for example {case}/t1.nii.gz")
    words = {"{case}": "(?P<case>[^/]+)", "{subject}": "(?P<subject>[^/]+)", "*": "[^/]*"}
    seen: set[str] = set()
    text = ""
    for part in re.split(r"(\{case\}|\{subject\}|\*)", pattern):
        # A name that stands twice ({case}/{case}_t1.nii.gz) means the same both times.
        repeated = part.startswith("{") and part in seen
        text += f"(?P={part[1:-1]})" if repeated else words.get(part, re.escape(part))
        seen.add(part)
    return re.compile(text)


def _everything(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=True):
        yield from (Path(folder, name) for name in (*folders, *names) if not name.startswith("."))


def _columns(path: Path, channels: Mapping[str, Any], ours: Any) -> dict[str, str | None]:
    """Column and kind of each channel of a ``dataset.json``, from its names or from our own entry in it."""
    try:
        numbers = sorted(channels, key=int)
    except ValueError as error:
        expected, found = '{"0": "T1", "1": ...}', ", ".join(map(str, channels))
        raise CaseError("channels are not numbered", file=path, expected=expected, found=found) from error
    own = [_our_column(ours, number) for number in numbers]
    if len({column for column, _ in own if column}) == len(numbers):
        return dict(own)
    names = [str(channels[number]) for number in numbers]
    columns = [column_name(name) or "channel" for name in names]
    twice = {c for c in columns if columns.count(c) > 1} | {*OWN_COLUMNS}  # two phases are both called CT
    kinds = {f"{c}_{n}" if c in twice else c: kind_of_channel(name) for n, (c, name) in enumerate(zip(columns, names))}
    if len(kinds) < len(names):
        raise CaseError("channels have the same name", file=path, found=", ".join(names))
    return kinds


def _our_column(ours: Any, number: str) -> tuple[str, str | None]:
    """Column and kind of a channel as `differseg_med.cohort.exporters` wrote them; an empty column if it did not."""
    entry = ours.get(number) if isinstance(ours, Mapping) else None
    name, kind = (entry.get("name"), entry.get("kind")) if isinstance(entry, Mapping) else ("", None)
    if not (isinstance(name, str) and isinstance(kind, str) and kind in KINDS):
        return "", None
    return ("", None) if name in OWN_COLUMNS or unsafe(name) else (name, kind)  # files are named after it


def _known(kinds: Mapping[str, str | None]) -> dict[str, str]:
    return {name: kind for name, kind in kinds.items() if kind is not None}


def column_name(name: str) -> str:
    """A modality's name as a column: small letters, digits and underscores."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _classes(labels: Mapping[str, Any]) -> dict[str, str]:
    """Values by name of class or region, of either form: ``{"core": 2}`` or ``[2, 3]``, and ``{"2": "core"}``."""
    pairs = [(str(k), v) if not str(k).isdigit() else (str(v), int(k)) for k, v in labels.items()]
    found = {}
    for name, value in pairs:
        values = [str(v) for v in (value if isinstance(value, list | tuple) else [value])]
        if name.casefold() not in ("background", "ignore"):
            found[name] = ",".join(values)
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CaseError("there is no such file", file=path, remedy="Check the folder of the data set.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CaseError("the file is not JSON", file=path, found=str(error).split("\n")[0]) from error
