"""From the sources of a tree to the rows of a cohort table, and an audit that accounts for every source."""

from __future__ import annotations

import hmac
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from differseg_med.case import Case
from differseg_med.cohort.scan.rules import Rules
from differseg_med.cohort.scan.sources import Source, matches_roi
from differseg_med.errors import CaseError, Level
from differseg_med.io.dicom.cells import RESAMPLE, split_cell
from differseg_med.keys import LABEL
from differseg_med.modality import label_of

Key = tuple[str, str]  # patient, study

SALT = ".differseg_salt"
"""File beside the table, see `read_salt`."""

_LISTED = 3
"""How many series that fit equally a message names: a diffusion series may have a hundred parts."""

SEVERITY = {"ok": 0, "warning": 1, "error": 2}


class Naming(str, Enum):
    """What cases are called after."""

    NUMBER = "number"
    FOLDER = "folder"


class Unit(str, Enum):
    """What a case is."""

    STUDY = "study"
    PATIENT = "patient"


@dataclass(frozen=True)
class Scan:
    """The cohort that was found.

    Args:
        modalities: those that a case has, in the order of the rules.
        cases: rows of the table, sorted by case id.
        kinds: what kind of image each modality is, as far as all its images agree.
        audit: every source with the case that it belongs to (empty for none), worst first within a case.
    """

    modalities: tuple[str, ...]
    cases: tuple[Case, ...]
    audit: tuple[tuple[str, Source], ...]
    kinds: Mapping[str, str] = field(default_factory=dict)


def make_cohort(
    sources: Sequence[Source],
    rules: Rules,
    *,
    roi: str = "",
    naming: Naming = Naming.NUMBER,
    unit: Unit = Unit.STUDY,
    salt: str = "",
    modalities: Sequence[str] = (),
) -> Scan:
    """Assign the sources to cases, modalities and labels.

    Case ids never come from a patient's name or number: they are numbers in the order of the folders (``case_001``),
    or, with `Naming.FOLDER`, the name of the patient's folder, for trees whose folders hold study codes.

    Args:
        sources: of one tree.
        rules: those by which the sources were found.
        roi: regex, any case, on the names of ROIs and segments; empty for any.
        naming: what cases are called after.
        unit: a case is one examination, or all that a patient has.
        salt: secret of the table, see `read_salt`; without it an id made from a PatientID could be found by trying.
        modalities: only these, in this order; empty for all. Others are set aside before anything is chosen, so that
            the label is the one that was drawn on the first of these.

    Raises:
        CaseError: with `Naming.FOLDER`, if folders do not tell the patients apart; for a modality that no source has.
    """
    if modalities:
        sources = _only(sources, modalities)
        rules = replace(rules, columns=tuple(modalities))
    units = _units(sources, unit)
    names = _case_ids({key: own for key, own in units.items() if any(s.role == "image" for s in own)}, naming, salt)
    cases, audit = [], []
    for key, own in units.items():
        case_id, subject_id = names.get(key, ("", ""))
        chosen, judged = _choose(own, rules, roi) if case_id else ({}, [_without_image(source) for source in own])
        audit += [(case_id, source) for source in judged]
        if case_id:
            cases.append(_case(case_id, subject_id, chosen, rules))
    modalities = tuple(m for m in rules.names if any(m in case.images for case in cases))
    kinds, audit = _kinds(cases, audit)
    audit.sort(key=lambda row: (row[0], -SEVERITY[row[1].level], row[1].path, row[1].series))
    return Scan(modalities, tuple(sorted(cases, key=lambda case: case.case_id)), tuple(audit), kinds)


def _only(sources: Sequence[Source], modalities: Sequence[str]) -> list[Source]:
    """The sources, ignored if they are images of other modalities."""
    there = dict.fromkeys(source.modality for source in sources if source.role == "image")
    if unknown := [name for name in modalities if name not in there]:
        raise CaseError(f"no case has {unknown[0]!r}", expected=f"some of {list(there)}")
    words = f"not used: {', '.join(modalities)} were asked for"
    return [
        replace(source, role="ignored", level="ok", reason=words)
        if source.role == "image" and source.modality not in modalities
        else source
        for source in sources
    ]


def _units(sources: Sequence[Source], unit: Unit) -> dict[Key, list[Source]]:
    """Sources by what will be a case. A label belongs to the examination of the series that it was drawn on."""
    homes = {s.series_uid: (s.patient, s.study) for s in sources if s.role == "image" and s.series_uid}
    units: dict[Key, list[Source]] = {}
    for source in sources:
        home = next((homes[uid] for uid in source.referenced if uid in homes), (source.patient, source.study))
        units.setdefault(home if unit is Unit.STUDY else (home[0], ""), []).append(source)
    return units


def _case_ids(units: dict[Key, list[Source]], naming: Naming, salt: str) -> dict[Key, tuple[str, str]]:
    """Case and subject id of each unit; a patient's examinations are numbered in the order of their folders."""
    first = {key: min(s.path for s in own if s.role == "image") for key, own in units.items()}
    patients: dict[str, list[Key]] = {}
    for key in sorted(units, key=lambda key: (first[key], key)):
        patients.setdefault(key[0], []).append(key)
    digits = max(3, len(str(len(patients))))
    ids = {}
    for number, (patient, keys) in enumerate(patients.items(), start=1):
        subject = f"case_{number:0{digits}d}"
        if naming is Naming.FOLDER:
            subject = _folder(first[keys[0]], _salted(patient, units[keys[0]], salt))
        for visit, key in enumerate(keys, start=1):
            ids[key] = (subject if len(keys) == 1 else f"{subject}_{visit}", subject)
    if len({case for case, _ in ids.values()}) < len(ids):
        raise CaseError(
            "folders do not tell the patients apart, so they cannot name the cases",
            remedy="Let the cases be numbered: --case-id number.",
        )
    return ids


def read_salt(table: str | Path) -> str:
    """The secret beside a cohort table that its ids are made with; made at the first scan, for its owner to read."""
    path = Path(table).parent / SALT
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def _salted(patient: str, own: Sequence[Source], salt: str) -> str:
    """The key of a DICOM patient, which is a hash of PatientID, hashed again with the salt; names of files stay."""
    if not any(source.series_uid for source in own):
        return patient
    return hmac.new((salt or secrets.token_hex(16)).encode(), patient.encode(), "sha256").hexdigest()[:12]


def _folder(path: str, patient: str) -> str:
    """The first folder of the tree above a patient's files; for files beside each other the part that they share."""
    return path.split("/")[0] if "/" in path else patient


def _case(case_id: str, subject_id: str, chosen: dict[str, Source], rules: Rules) -> Case:
    images = {m: Path(chosen[m].cell) for m in rules.names if m in chosen}
    scanner = chosen[next(iter(images))].scanner
    label = Path(chosen[LABEL].cell) if LABEL in chosen else None
    return Case(case_id, subject_id, images, label, extra={"scanner": scanner} if scanner else {})


def _kinds(cases: Sequence[Case], audit: list[tuple[str, Source]]) -> tuple[dict[str, str], list[tuple[str, Source]]]:
    """The kind of each modality, and the audit with warnings of images of a modality that holds several kinds."""
    taken = {(case.case_id, str(cell)) for case in cases for cell in case.images.values()}
    found: dict[str, dict[str, None]] = {}
    for case_id, source in audit:
        if source.role == "image" and (case_id, str(Path(source.cell))) in taken:
            found.setdefault(source.modality, {})[source.kind] = None
    known = {name: [kind for kind in kinds if kind] for name, kinds in found.items()}
    mixed = {name: " and ".join(map(label_of, kinds)) for name, kinds in known.items() if len(kinds) > 1}
    told = [
        (
            case_id,
            _noted(source, "warning", f"{source.modality} holds several kinds of images: {mixed[source.modality]}"),
        )
        if source.modality in mixed and (case_id, str(Path(source.cell))) in taken
        else (case_id, source)
        for case_id, source in audit
    ]
    return {name: kinds[0] for name, kinds in known.items() if len(kinds) == len(found[name]) == 1}, told


def _choose(own: Sequence[Source], rules: Rules, roi: str) -> tuple[dict[str, Source], list[Source]]:
    """The source of each modality and of the label of one case, and all its sources with what was decided."""
    chosen, judged = {}, [source for source in own if source.role not in ("image", "label")]
    for modality in rules.names:
        candidates = [s for s in own if s.role == "image" and s.modality == modality]
        if candidates:
            chosen[modality], decided = _best_image(candidates)
            judged += decided
    reference = next(iter(chosen.values()))
    judged = [_judge_space(s, reference) if s in chosen.values() else s for s in judged]
    label, decided = _best_label([s for s in own if s.role == "label"], reference, roi)
    if label is not None:
        chosen[LABEL] = label
    return chosen, [*judged, *decided]


def _best_image(candidates: Sequence[Source]) -> tuple[Source, list[Source]]:
    """The earliest rule wins; of several series under one rule one that needs no interpolation, with most files."""
    ordered = sorted(candidates, key=lambda s: (s.rank, s.cell.endswith(RESAMPLE), -s.size, s.path, s.cell))
    best, rest = ordered[0], ordered[1:]
    ties = [s for s in rest if s.rank == best.rank]
    decided = [_noted(s, "ok", f"not used: an earlier rule fits {best.series}") for s in rest if s.rank != best.rank]
    decided += [_noted(s, "warning", f"not used: {best.series} fits {best.modality} equally") for s in ties]
    words = f"used as {best.modality}"
    if ties:
        listed = "; ".join(s.series for s in ties[:_LISTED]) + f" and {len(ties) - _LISTED} more" * (
            len(ties) > _LISTED
        )
        words += f", but so could be {listed}. Make the rule narrower, or edit the table."
    best = _noted(best, "warning" if ties else "ok", words)
    return best, [best, *decided]


def _best_label(candidates: Sequence[Source], reference: Source, roi: str) -> tuple[Source | None, list[Source]]:
    """The one whose name matches; of several, the one drawn on the reference image; else none, and a warning."""
    fitting = [s for s in candidates if matches_roi(s, roi)]
    decided = [_noted(s, "ok", f"not used: its name does not match {roi!r}") for s in candidates if s not in fitting]
    drawn_here = [s for s in fitting if reference.series_uid and reference.series_uid in s.referenced]
    best = fitting if len(fitting) == 1 else drawn_here
    if len(best) == 1:
        why = "" if len(fitting) == 1 else f": of {len(fitting)} candidates the one drawn on {reference.modality}"
        used = _noted(best[0], "ok", f"used as label{why}")
        others = [_noted(s, "ok", "not used as label: drawn on another image") for s in fitting if s is not best[0]]
        return used, [used, *others, *decided]
    called = Counter(s.roi for s in fitting if s.roi)
    twice = [f"{s.roi} ({split_cell(s.cell)[1]})" for s in fitting if called[s.roi] > 1]
    names = ", ".join(sorted({*twice, *(s.roi or s.series for s in fitting if called[s.roi] < 2)}))
    words = f"not used: {len(fitting)} candidates for the label ({names}). Choose one with --roi, or edit the table."
    return None, [*(_noted(s, "warning", words) for s in fitting), *decided]


def _without_image(source: Source) -> Source:
    words = "not used: no image here that it could belong to. Put it beside its image, or edit the table"
    return _noted(source, "warning", words) if source.role == "label" else source


def _judge_space(source: Source, reference: Source) -> Source:
    if not source.frame_uid or not reference.frame_uid or source.frame_uid == reference.frame_uid:
        return source
    words = (
        f"its frame of reference is not that of {reference.modality}, so the scanner does not say how they lie. "
        "See what cohort check says of their alignment"
    )
    return _noted(replace(source, reason=words), "warning", source.reason)  # what became of it first


def _noted(source: Source, level: Level, words: str) -> Source:
    """The source with more words, and the worse of its level and another."""
    worse = max(source.level, level, key=lambda name: SEVERITY[name])
    return replace(source, level=worse, reason="; ".join(text for text in (words.rstrip("."), source.reason) if text))
