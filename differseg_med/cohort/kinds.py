"""What kind of image each modality of a cohort is: ``cohort.yaml`` beside ``cohort.csv``, and questions about it.

The file holds ``modalities: {t1: {kind: mr}, ct: {kind: ct}}``. ``cohort scan`` and ``cohort import`` write what DICOM
or the data set says; a person says the rest (``cohort kinds``). A kind is never guessed from a column's name.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from differseg_med.atomic import write_text
from differseg_med.case import Cohort
from differseg_med.errors import CaseError
from differseg_med.modality import KINDS, Modality, label_of

_FORM = "modalities: {t1: {kind: mr}, ct: {kind: ct}}"


def kinds_path(table: str | Path) -> Path:
    """``cohort.yaml`` of ``cohort.csv``."""
    return Path(table).with_suffix(".yaml")


def table_files(table: str | Path) -> tuple[Path, Path]:
    """The files of a table, which no run writes."""
    return Path(table), kinds_path(table)


def read_kinds(table: str | Path) -> dict[str, str]:
    """The kind of each modality that the file beside a table tells; empty without such a file.

    Raises:
        CaseError: if the file is there and does not have this form, or names a kind that there is not.
    """
    path = kinds_path(table)
    if not path.is_file():
        return {}
    content = _load(path)
    entries = content.get("modalities") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping):
        raise _unfit(path, "the file beside the table does not say what kinds of images its columns hold", content)
    if unknown := [key for key in content if key != "modalities"]:
        raise _unfit(path, f"unknown entry {reprlib.repr(unknown[0])}", ", ".join(map(reprlib.repr, content)))
    kinds = {}
    for name, entry in entries.items():
        try:
            kinds[name] = Modality.read(name, entry).kind
        except ValueError as error:
            raise CaseError(str(error), file=path, remedy="Correct the entry.") from error
    return kinds


def write_kinds(table: str | Path, kinds: Mapping[str, str]) -> None:
    """Write the file beside a table.

    Raises:
        CaseError: if a file of that name is there and is something else.
    """
    check_kinds_file(table)
    lines = [
        f"# What kind of image each column of {Path(table).name} holds: {', '.join(KINDS)}.",
        yaml.safe_dump({"modalities": {name: {"kind": kind} for name, kind in kinds.items()}}, sort_keys=False),
    ]
    write_text(kinds_path(table), "\n".join(lines))


def check_kinds_file(table: str | Path) -> None:
    """Refuse to write a table if the file of kinds would replace another file, such as a rule file.

    Raises:
        CaseError: in that case.
    """
    try:
        read_kinds(table)
    except CaseError as error:
        error.remedy = f"It would be replaced: move {kinds_path(table).name} away, or give the table another name."
        raise


def parse_kinds(entries: Iterable[str]) -> dict[str, str]:
    """Kinds from ``arterial=ct`` of a command line.

    Raises:
        CaseError: for an entry of another form, or an unknown kind.
    """
    kinds: dict[str, str] = {}
    for entry in entries:
        name, _, kind = (part.strip() for part in entry.partition("="))
        if not name or kind not in KINDS:
            raise CaseError(
                f"--kind {entry} is not understood", expected=f"COLUMN=KIND, KIND one of {', '.join(KINDS)}"
            )
        kinds[name] = kind
    return kinds


def with_kinds(cohort: Cohort, kinds: Mapping[str, str]) -> Cohort:
    """The cohort with these kinds over those that it has.

    Raises:
        CaseError: for a modality that the table does not have.
    """
    if unknown := [name for name in kinds if name not in cohort.modalities]:
        raise CaseError(
            f"the table has no modality {unknown[0]!r}", file=cohort.path, expected=f"some of {[*cohort.modalities]}"
        )
    known = {**cohort.kinds, **kinds}
    ordered = {name: known[name] for name in cohort.modalities if name in known}
    return replace(cohort, kinds=ordered, cases=tuple(replace(case, kinds=ordered) for case in cohort.cases))


def need_kinds(cohort: Cohort, purpose: str) -> None:
    """Ask for the kinds that a command needs and the cohort does not tell.

    Raises:
        CaseError: with the command that answers the question.
    """
    if unknown := unknown_kinds(cohort):
        raise CaseError(
            f"{purpose} depends on what kind of image each modality is, which nothing says of {', '.join(unknown)}",
            file=cohort.path,
            expected=f"one of {', '.join(KINDS)} each",
            remedy=f"Say it once: {question(cohort.path, unknown)}, or add --kind to this command.",
        )


def unknown_kinds(cohort: Cohort) -> list[str]:
    """The modalities of a cohort whose kind is not known."""
    return [name for name in cohort.modalities if name not in cohort.kinds]


def question(table: str | Path, unknown: Sequence[str]) -> str:
    """The command that says what kind of image columns hold."""
    return f"differseg-med cohort kinds {Path(table).name} " + " ".join(f"--kind {name}=KIND" for name in unknown)


def compare_kinds(needed: Mapping[str, Modality], kinds: Mapping[str, str], table: Path) -> None:
    """Compare what a bundle needs with what a cohort says that it has; a cohort that says nothing may have it.

    Args:
        needed: the bundle's modalities.
        kinds: what the file beside the table says.
        table: the cohort table.

    Raises:
        CaseError: if a modality is of another kind.
    """
    wrong = [name for name, modality in needed.items() if kinds.get(name, modality.kind) != modality.kind]
    if wrong:
        raise CaseError(
            f"modality {wrong[0]!r} is another kind of image than the bundle was made for",
            file=table,
            expected=needs({name: modality.kind for name, modality in needed.items()}),
            found=needs({name: kinds.get(name) for name in needed}),
            remedy=f"Put the right images into the column, or correct {kinds_path(table).name} if it is wrong.",
        )


def needs(kinds: Mapping[str, str | None]) -> str:
    """Modalities with their kinds in words: ``t1 (MR), ct (CT)``."""
    return ", ".join(f"{name} ({label_of(kind)})" for name, kind in kinds.items())


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        _refuse_repeated(yaml.compose(text, yaml.SafeLoader), path)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unfit(path, "the file beside the table is not YAML", str(error).split("\n")[0]) from error


def _refuse_repeated(node: yaml.Node | None, path: Path) -> None:
    """YAML would take the last of two entries of one name in silence."""
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise CaseError(f"{repeated[0]!r} is there twice", file=path, remedy="Keep the one that is right.")
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "modalities":
                _refuse_repeated(value, path)


def _unfit(path: Path, problem: str, found: Any) -> CaseError:
    found = found if isinstance(found, str) else reprlib.repr(found)
    return CaseError(problem, file=path, expected=_FORM, found=found, remedy="Repair it, or move it away.")
