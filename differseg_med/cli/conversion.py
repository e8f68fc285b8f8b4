"""Commands between the cohort table and the layouts of other tools. Registered in `differseg_med.cli.cohort`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli.options import Force, Kinds, Out, Table, progress, read_table, tell_kinds
from differseg_med.cohort import importers as layouts
from differseg_med.cohort.availability import absent_of, presence, text_table
from differseg_med.cohort.kinds import parse_kinds, read_kinds
from differseg_med.errors import CaseError, exit_code, shown
from differseg_med.runs.stamps import inputs_of
from differseg_med.runs.tables import written_table

Root = Annotated[Path, typer.Argument(help="Folder of the data set.", exists=True)]
Values = Annotated[
    str, typer.Option(help="Target: label values 1,2,3, or names of classes. Default: the value that is not 0.")
]

Test = Annotated[str, typer.Option(help="Regex on ids of cases: these get split test, no training or fold has them.")]


class Layout(str, Enum):
    """How an MSD list gives the modalities of a case."""

    LIST = "list"
    STACKED = "4d"


class Missing(str, Enum):
    """What nnU-Net gets for a modality that is absent."""

    SKIP = layouts.SKIP
    ZEROS = layouts.ZEROS


def nnunet(
    root: Root,
    out: Out,
    foreground: Values = "",
    kind: Kinds = None,
    splits: Annotated[
        Path | None, typer.Option(help="splits_final.json, for the columns fold and split.", exists=True)
    ] = None,
    test: Test = "",
    force: Force = False,
) -> None:
    """An nnU-Net raw data set: ROOT is DatasetXXX_Name."""
    sys.exit(exit_code(lambda: _write(layouts.read_nnunet(root, splits), out, foreground, kind, force, test)))


def msd(
    root: Root, out: Out, foreground: Values = "", kind: Kinds = None, test: Test = "", force: Force = False
) -> None:
    """A Medical Segmentation Decathlon data set: ROOT is its folder or dataset.json. 4-D files are split."""
    sys.exit(exit_code(lambda: _write(layouts.read_msd(root), out, foreground, kind, force, test)))


def bids(
    root: Root,
    out: Out,
    foreground: Values = "",
    mask: Annotated[str, typer.Option(help="Regex on the masks' names, where a session has several.")] = "",
    kind: Kinds = None,
    test: Test = "",
    force: Force = False,
) -> None:
    """A BIDS data set, with masks among its derivatives."""
    sys.exit(exit_code(lambda: _write(layouts.read_bids(root, mask), out, foreground, kind, force, test)))


def pattern(
    root: Root,
    out: Out,
    image: Annotated[list[str], typer.Option(help="COLUMN=PATH with {case} in it: t1={case}/t1.nii.gz. Repeatable.")],
    label: Annotated[str, typer.Option(help="PATH of the label: {case}/mask.nii.gz.")] = "",
    foreground: Values = "",
    kind: Kinds = None,
    test: Test = "",
    force: Force = False,
) -> None:
    """Any regular layout: a path per column, with {case}, {subject} and * in it."""

    def job() -> None:
        pairs = [entry.partition("=") for entry in image]
        if bad := [entry for entry, (_, equals, _) in zip(image, pairs) if not equals]:
            raise CaseError(f"--image {bad[0]} is not understood", expected="COLUMN=PATH")
        patterns = {column: path for column, _, path in pairs} | ({"label": label} if label else {})
        _write(layouts.read_pattern(root, patterns), out, foreground, kind, force, test)

    sys.exit(exit_code(job))


def to_msd(
    table: Table,
    out: Annotated[Path, typer.Option("--out", help="dataset.json to write.")],
    layout: Annotated[Layout, typer.Option(help="List the files where they are, or write 4-D files.")] = Layout.LIST,
    kind: Kinds = None,
) -> None:
    """An MSD data list with folds, for MONAI's Auto3DSeg and others."""
    from differseg_med.cohort.exporters import export_msd

    stacked = layout is Layout.STACKED
    _export(table, kind, lambda cohort: export_msd(cohort, out, stacked=stacked, progress=progress("case")))


def to_nnunet(
    table: Table,
    out: Annotated[Path, typer.Option("--out", help="Folder nnUNet_raw/DatasetXXX_Name.")],
    missing: Annotated[Missing, typer.Option(help="Cases with an absent modality.")] = Missing.SKIP,
    kind: Kinds = None,
) -> None:
    """An nnU-Net raw data set, with splits_final.json."""
    from differseg_med.cohort.exporters import export_nnunet

    _export(table, kind, lambda cohort: export_nnunet(cohort, out, missing=missing.value, progress=progress("case")))


def _export(table: Path, kinds: Sequence[str] | None, write: Callable[..., Sequence[CaseError]]) -> None:
    def job() -> None:
        cohort = read_table(table, kinds=kinds)
        failed = write(cohort)
        lost = {error.case for error in failed}
        for case in cohort.cases:
            if case.case_id not in lost and (absent := absent_of(case, cohort.modalities)):
                typer.echo(f"{case.case_id}: zeros for {', '.join(absent)}")
        typer.echo(f"{len(cohort.cases) - len(failed)} of {len(cohort.cases)} cases exported")
        if failed:
            raise SystemExit("\n".join(str(error) for error in failed))

    sys.exit(exit_code(job))


def _write(
    found: layouts.Imported, out: Path, foreground: str, kinds: Sequence[str] | None, force: bool, test: str
) -> None:
    from differseg_med.cohort.exporters import write_imported

    found = found.tested(test) if test else found
    given = parse_kinds(kinds or ())
    if unknown := [name for name in given if name not in found.modalities]:
        raise CaseError(f"the data set has no modality {unknown[0]!r}", expected=f"some of {list(found.modalities)}")
    found = replace(found, kinds={**found.kinds, **given})
    inputs = [*found.stacked.values(), *(path for case in found.cases for path in inputs_of(case))]
    with written_table(out, "import", inputs, force=force):
        cases = write_imported(found, out, foreground, progress("case"))
    for note in found.notes:
        typer.echo(f"note: {note}")
    if len(found.classes) > 1 and not foreground:
        named = ", ".join(f"{name} ({values})" for name, values in found.classes.items())
        typer.echo(f"note: labels have {len(found.classes)} classes: {named}. Say which are the target: --foreground")
    for line in text_table(presence(cases, found.modalities)):
        typer.echo(line)
    typer.echo(f"{shown(out)}: {len(cases)} cases")
    tell_kinds(out, found.modalities, read_kinds(out))
