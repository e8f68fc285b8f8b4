"""What lies in a tree of DICOM or volume files, said in one way: which modality or label of which patient it is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from differseg_med.cohort.scan.rules import Rule, Rules, found
from differseg_med.errors import CaseError, Level
from differseg_med.io.dicom.cells import join_cell, split_cell
from differseg_med.io.dicom.index import SeriesEntry
from differseg_med.io.dicom.names import NUMBER_MARK
from differseg_med.io.headers import CONVERT, LISTED, is_second_of_pair, is_volume_file, read_header, stem
from differseg_med.io.slicer_header import is_segmentation, read_segmentation_header
from differseg_med.io.voxels import check_body

Role = Literal["image", "label", "ignored", "unknown"]


@dataclass(frozen=True)
class Source:
    """One series, object or file of a tree.

    Args:
        cell: what the cohort table would hold.
        path: file or folder relative to the tree, for the audit.
        series: what it is, in words: description, part, kind, number of the series, number of slices; of a file that
            says nothing its name.
        role: what it can be used for.
        modality: of an image.
        kind: of an image, one of `differseg_med.modality.KINDS`; empty if nothing tells.
        rank: place of the rule that fits in the rule file; the earlier is preferred.
        patient: key of the patient, the same for all that belongs to one.
        study: key of the examination.
        size: number of slices; of several that fit equally the largest is taken.
        level: the audit's level.
        reason: the audit's words.
        series_uid: SeriesInstanceUID.
        frame_uid: FrameOfReferenceUID.
        referenced: series that a label says it was drawn on.
        roi: ROI or segment of a label; empty for a file that is one mask.
        scanner: manufacturer and model.
    """

    cell: str
    path: str
    series: str
    role: Role
    modality: str = ""
    kind: str = ""
    rank: int = 0
    patient: str = ""
    study: str = ""
    size: int = 1
    level: Level = "ok"
    reason: str = ""
    series_uid: str = ""
    frame_uid: str = ""
    referenced: tuple[str, ...] = ()
    roi: str = ""
    scanner: str = ""


def dicom_sources(
    entries: Iterable[SeriesEntry], root: Path, rules: Rules, *, resample: bool = False
) -> Iterator[Source]:
    """The entries of a DICOM index: one source per image series, one per ROI of an RTSTRUCT or segment of a SEG.

    Args:
        entries: of the index.
        root: the tree.
        rules: which series is which modality.
        resample: take tilted and unevenly spaced series with the cell that has them interpolated.
    """
    for entry in entries:
        source = _source(entry, root)
        rule = rules.match_series(entry.tags) if entry.kind == "image" else None
        if rule is not None and not rule.name:  # whatever else is wrong with it
            yield replace(source, role="ignored", level="ok", reason=_joined("ignored by a rule", source.reason))
        elif entry.problem is not None and entry.resampled and resample:
            reason = _joined(f"will be interpolated: {entry.problem.problem}", source.reason)
            resampled = replace(source, cell=entry.resampled, level="warning", reason=reason)
            yield _image(resampled, rule, rules, str(entry.tags.get("Modality", "")))
        elif entry.problem is not None:
            yield replace(source, level="error", reason=_without_place(entry.problem))
        elif entry.kind == "image":
            yield _image(source, rule, rules, str(entry.tags.get("Modality", "")))
        elif entry.kind in ("rtstruct", "seg"):
            yield from _regions(source, entry)
        else:
            yield replace(source, role="ignored", reason="no image and no segmentation")


def file_sources(root: Path, rules: Rules) -> Iterator[Source]:
    """The NIfTI, NRRD and MetaImage files of a tree, by the names of files.

    Files belong together whose paths are equal once the part of the name that tells the modality is taken out:
    ``p1/t1.nii.gz`` and ``p1/ct.nii.gz``, or ``p1_t1.nii.gz`` and ``p1_ct.nii.gz``.
    """
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file() or is_second_of_pair(path):
                continue
            if name.lower().endswith(LISTED):
                reason = f"this kind of file is not read. {CONVERT}"
                yield Source(str(path), _relative(path, root), name, "unknown", level="warning", reason=reason)
            elif is_volume_file(name):
                source = _file(path, root, rules)
                yield from _segments(source, path) if source.role == "label" and is_segmentation(path) else [source]


def attach_files(files: Sequence[Source], series: Sequence[Source]) -> list[Source]:
    """Files among the DICOM series of one examination (masks drawn on them) are given to that examination.

    Labels whose name leads to no image are given to the images beside them: ``p1/tumour.nrrd`` to ``p1/ct.nrrd``.
    """
    studies = [(Path(source.path), source) for source in series if source.study]
    images = [(Path(source.path), source) for source in files if source.role == "image"]
    named = {(source.patient, source.study) for _, source in images}
    done = []
    for file in files:
        lost = file.role == "label" and (file.patient, file.study) not in named
        for folder in Path(file.path).parents:
            near = {(s.patient, s.study) for path, s in studies if folder in (path, *path.parents)}
            if lost and folder == Path(file.path).parent:
                near |= {(s.patient, s.study) for path, s in images if path.parent == folder}
            if near:
                if len(near) == 1:
                    patient, study = near.pop()
                    file = replace(file, patient=patient, study=study)
                break
        done.append(file)
    return done


def _source(entry: SeriesEntry, root: Path) -> Source:
    tags = entry.tags
    path = split_cell(entry.cell)[0]
    words = [str(tags.get("SeriesDescription") or tags.get("ProtocolName") or "no description")]
    words += [str(tags["Part"])] if tags.get("Part") else []
    kind = [str(tags.get("Modality") or entry.kind)]
    kind += [f"series {tags['SeriesNumber']}"] if "SeriesNumber" in tags else []
    kind += [f"{entry.slices} slice{'s' * (entry.slices != 1)}"] if entry.slices else []
    maker = (str(tags.get(key, "")).strip() for key in ("Manufacturer", "ManufacturerModelName"))
    return Source(
        cell=entry.cell,
        path=_relative(path, root),
        series=f"{', '.join(words)} ({', '.join(kind)})" if tags else path.name,
        role="unknown",
        patient=entry.patient_key or entry.study_uid or entry.series_uid,
        study=entry.study_uid or entry.series_uid,
        size=entry.slices,
        level="warning" if entry.doubts else "ok",
        reason="; ".join((*entry.doubts, *entry.notes)),
        series_uid=entry.series_uid,
        frame_uid=entry.frame_uid,
        referenced=tuple(tags.get("ReferencedSeries", ())),
        scanner=" ".join(word for word in maker if word),
    )


def _image(source: Source, rule: Rule | None, rules: Rules, modality: str) -> Source:
    if rule is None:
        return replace(source, level="warning", reason=_joined("no rule fits", source.reason))
    return replace(source, role="image", modality=rule.name, kind=rule.kind_of(modality), rank=rules.rank(rule))


def _regions(source: Source, entry: SeriesEntry) -> Iterator[Source]:
    names = entry.tags.get("ROINames", ()) or entry.tags.get("SegmentLabels", ())
    yield from _named(source, list(zip(entry.tags.get("ItemNumbers", ()), names)))
    if not names:
        yield replace(source, role="label")


def _named(source: Source, named: Sequence[tuple[int | None, str]]) -> Iterator[Source]:
    """One source per region or segment, chosen by name, or by number where several have one name."""
    count = Counter(name for _, name in named)
    for number, name in named:
        twice = count[name] > 1
        selector = f"{NUMBER_MARK if str(number) in count else ''}{number}" if twice else name
        yield replace(
            source,
            cell=join_cell(source.cell, selector),
            role="label",
            roi=name,
            series=f"{source.series}: {name}{f' ({number})' if twice else ''}",
        )


def _file(path: Path, root: Path, rules: Rules) -> Source:
    relative, name = _relative(path, root), path.name
    source = Source(cell=str(path.absolute()), path=relative, series=name, role="unknown")
    rule, label = rules.match_file(stem(name)), rules.label_file(stem(name))
    # A mask's name often says what it was drawn on (t1_mask): the word for the mask counts.
    if label is not None or is_segmentation(path):
        patterns = [fit.file for fit in (label, rule) if fit is not None]
        source = replace(source, role="label", patient=_rest(relative, patterns))
    elif rule is None:
        return replace(source, level="warning", reason="no rule fits the name")
    elif not rule.name:
        return replace(source, role="ignored", reason="ignored by a rule")
    else:
        source = _image(source, rule, rules, "")
        source = replace(source, patient=_rest(relative, [rule.file]))
    source = replace(source, study=source.patient)
    level, reason = _judge_header(path)
    if level == "error":
        return replace(source, role="unknown", level="error", reason=reason)
    return replace(source, level=level, reason=reason)


def _judge_header(path: Path) -> tuple[Level, str]:
    try:
        if is_segmentation(path):
            read_segmentation_header(path)
            return "ok", ""
        header = read_header(path)
        check_body(header)
        findings = header.findings
    except CaseError as error:
        return "error", _without_place(error)
    return ("warning" if findings else "ok"), "; ".join(finding.text for finding in findings)


def _segments(source: Source, path: Path) -> Iterator[Source]:
    """One source per segment of a segmentation of 3D Slicer."""
    segments = read_segmentation_header(path).segments
    yield from _named(source, [(number, segment.name) for number, segment in enumerate(segments, 1)])


def _rest(relative: str, patterns: Iterable[str]) -> str:
    """The path without the words that patterns find in the file's name, and without separators at its ends."""
    path = Path(relative)
    rest = stem(path.name)
    for pattern in patterns:
        rest = re.sub(pattern, "_", rest, count=1, flags=re.IGNORECASE)
    return (path.parent / rest.strip("_-. ")).as_posix()


def _relative(path: Path, root: Path) -> str:
    try:
        return path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:  # a link out of the tree
        return "/".join(path.parts[-2:])


def _without_place(error: CaseError) -> str:
    """The error's words without case and file, which have columns of their own."""
    return str(CaseError(error.problem, expected=error.expected, found=error.found, remedy=error.remedy))


def _joined(*words: str) -> str:
    return "; ".join(word for word in words if word)


def matches_roi(source: Source, pattern: str) -> bool:
    """Whether a label's ROI or segment is called so; a file that is one mask always is."""
    return not source.roi or found(pattern, source.roi)
