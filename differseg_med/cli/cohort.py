"""Commands that make, check and convert cohort tables."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli import checking, conversion
from differseg_med.cli.options import Force, Kinds, Out, names, progress, tell_kinds
from differseg_med.cohort.image_folders import find_images2d, with_validation
from differseg_med.cohort.kinds import check_kinds_file, parse_kinds, read_kinds
from differseg_med.cohort.scan import scan as scanning
from differseg_med.cohort.scan.choose import Naming, Unit, read_salt
from differseg_med.cohort.scan.rules import load_rules
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError, exit_code, shown
from differseg_med.runs.stamps import inputs_of
from differseg_med.runs.tables import written_table

app = typer.Typer(help="Make, check and convert cohort tables.", no_args_is_help=True)
importing = typer.Typer(help="Make a cohort table from a data set in a known layout.", no_args_is_help=True)
app.add_typer(importing, name="import")
exporting = typer.Typer(help="Write a data set in another tool's layout.", no_args_is_help=True)
app.add_typer(exporting, name="export")
for _name, _group, _command in (
    ("check", app, checking.check),
    ("kinds", app, checking.kinds),
    ("folds", app, checking.folds),
    ("register", app, checking.register),
    ("n4", app, checking.n4),
    ("nnunet", importing, conversion.nnunet),
    ("msd", importing, conversion.msd),
    ("bids", importing, conversion.bids),
    ("pattern", importing, conversion.pattern),
    ("nnunet", exporting, conversion.to_nnunet),
    ("msd", exporting, conversion.to_msd),
):
    _group.command(_name)(_command)


class Foreground(str, Enum):
    """What is foreground in images of masks."""

    WHITE = "white"
    BLACK = "black"


@app.command()
def scan(
    folder: Annotated[Path, typer.Argument(help="Folder (or zip archive) of DICOM, NIfTI, NRRD or MHA files.")],
    out: Out,
    rules: Annotated[str, typer.Option(help="Rule file (YAML), or default, mr, ct, pet.")] = "default",
    roi: Annotated[str, typer.Option(help="Regex: which ROI or segment is the label.")] = "",
    modalities: Annotated[
        str, typer.Option(help="Only these, the reference first: t1,ct,pet. The label is that of the reference.")
    ] = "",
    case_id: Annotated[
        Naming, typer.Option(help="Number the cases, or name them by the patients' folders.")
    ] = Naming.NUMBER,
    case_per: Annotated[Unit, typer.Option(help="A case is one examination, or all of a patient.")] = Unit.STUDY,
    resample: Annotated[
        bool, typer.Option("--resample", help="Also accept tilted and uneven series, to be interpolated.")
    ] = False,
    foreground: Annotated[str, typer.Option(help="Values of mask files that are the target: 1,2,3.")] = "",
    kind: Kinds = None,
    force: Force = False,
) -> None:
    """Find the images and labels in a folder: OUT, and beside it audit.csv and audit.html."""

    def job() -> None:
        check_kinds_file(out)
        chosen, given = load_rules(rules), parse_kinds(kind or ())
        found = scanning.scan_folder(
            folder,
            chosen,
            roi=roi,
            naming=case_id,
            unit=case_per,
            resample=resample,
            salt=read_salt(out) if case_id is Naming.FOLDER else "",
            modalities=names(modalities),
            progress=progress("file"),
        )
        if foreground:
            found = scanning.with_foreground(found, foreground)
        if unknown := [name for name in given if name not in found.modalities]:
            raise CaseError(f"no case has {unknown[0]!r}", expected=f"some of {list(found.modalities)}")
        found = replace(found, kinds={**found.kinds, **given})
        scanning.write_scan(found, out, force=force)
        for line in scanning.summary_lines(found):
            typer.echo(line)
        tell_kinds(out, found.modalities, read_kinds(out))
        typer.echo(f"{shown(out)}; what became of each file: audit.html and audit.csv beside it")
        if not found.cases:
            raise SystemExit(f"no case was found: {shown(out.parent / 'audit.csv')} says what became of each file")

    sys.exit(exit_code(job))


@importing.command()
def folders(
    root: Annotated[Path, typer.Option(help="Holds the folders of the modalities, or a folder per split that does.")],
    modalities: Annotated[str, typer.Option(help="Folders, the reference first; COLUMN=FOLDER where they differ.")],
    out: Out,
    mask: Annotated[str | None, typer.Option(help="Folder of the masks.")] = None,
    mask_foreground: Annotated[Foreground, typer.Option(help="What is foreground in the masks.")] = Foreground.WHITE,
    sequence: Annotated[str | None, typer.Option(help="Regex: the part of a name that identifies the video.")] = None,
    validation_every: Annotated[int, typer.Option(help="Of every N subjects the first is for validation.")] = 0,
    validation_last: Annotated[int, typer.Option(help="The last N subjects are for validation.")] = 0,
    kind: Kinds = None,
    force: Force = False,
) -> None:
    """2-D images in SPLIT/{image,depth,...,mask}/NAME.png (or jpg, tif), paired by NAME."""

    def job() -> None:
        check_kinds_file(out)
        pairs = [name.partition("=") for name in names(modalities)]
        columns = {column: folder or column for column, _, folder in pairs}
        given = parse_kinds(kind or ())
        if unknown := [name for name in given if name not in columns]:
            raise CaseError(f"there is no column {unknown[0]!r}", expected=f"some of {list(columns)}")
        found = find_images2d(root, columns, mask, foreground=mask_foreground.value, sequence=sequence)
        cases = found.cases
        if validation_every or validation_last:
            cases = with_validation(cases, validation_every, validation_last)
        with written_table(out, "import", [path for case in cases for path in inputs_of(case)], force=force):
            write_cohort(out, list(columns), cases, given)
        for text, lines in (("left out", found.left_out), ("other sizes, to be resized", found.resized)):
            for line in lines:
                typer.echo(f"{text}: {line}")
        splits = Counter(case.split or "no split" for case in cases)
        counts = ", ".join(f"{number} {split}" for split, number in splits.items())
        typer.echo(f"{len(cases)} cases ({counts}), {len({case.subject_id for case in cases})} subjects: {shown(out)}")
        tell_kinds(out, list(columns), read_kinds(out))

    sys.exit(exit_code(job))
