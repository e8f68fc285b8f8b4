"""Commands that make, check and convert cohort tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from differseg_med.cohort.rules import load_rules
from differseg_med.cohort.scan import Naming, Unit
from differseg_med.engines import scan as scanning
from differseg_med.workflows import exit_code

app = typer.Typer(help="Make, check and convert cohort tables.", no_args_is_help=True)
importing = typer.Typer(help="Make a cohort table from a data set in a known layout.", no_args_is_help=True)
app.add_typer(importing, name="import")

Out = Annotated[Path, typer.Option("--out", help="Cohort table to write (CSV).")]


@app.command()
def scan(
    folder: Annotated[Path, typer.Argument(help="Folder (or zip archive) of DICOM, NIfTI, NRRD or MHA files.")],
    out: Out,
    rules: Annotated[str, typer.Option(help="Rule file (YAML), or default, mr, ct, pet.")] = "default",
    roi: Annotated[str, typer.Option(help="Regex: which ROI or segment is the label.")] = "",
    modalities: Annotated[str, typer.Option(help="Columns to keep, the reference first: t1,ct,pet.")] = "",
    case_id: Annotated[
        Naming, typer.Option(help="Number the cases, or name them by the patients' folders.")
    ] = Naming.NUMBER,
    case_per: Annotated[Unit, typer.Option(help="A case is one examination, or all of a patient.")] = Unit.STUDY,
) -> None:
    """Find the images and labels in a folder: OUT, and beside it audit.csv and audit.html."""

    def job() -> None:
        found = scanning.scan_folder(
            folder, load_rules(rules), roi=roi, naming=case_id, unit=case_per, progress=_progress("file")
        )
        if modalities:
            found = scanning.select_modalities(found, _names(modalities))
        scanning.write_scan(found, out)
        for line in scanning.summary_lines(found):
            typer.echo(line)
        if not found.cases:
            raise SystemExit(f"no case was found: {out.parent / 'audit.csv'} says what became of each file")

    sys.exit(exit_code(job))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _progress(unit: str) -> Any:
    def wrapped(items: Iterable[Any]) -> Iterable[Any]:
        return tqdm(items, unit=unit, disable=None)

    return wrapped
