"""Commands on a cohort table: check, folds, registration, bias correction. Registered in `differseg_med.cli.cohort`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from differseg_med.cli.options import Force, Kinds, Table, names, progress, read_table, tell_kinds
from differseg_med.cohort.availability import text_table
from differseg_med.cohort.folds import assign_folds, balance, kept_folds, levels_of, with_folds
from differseg_med.cohort.registration.rigid import Method
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import exit_code, shown
from differseg_med.runs.stamps import inputs_of
from differseg_med.runs.tables import written_table

if TYPE_CHECKING:
    from differseg_med.cohort.registration.register import Changed

OutDir = Annotated[Path, typer.Option("--out", help="Folder for the new volumes and cohort.csv.")]


def check(
    table: Table,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for check.csv and check.html.")] = None,
    modalities: Annotated[str, typer.Option(help="Columns to check, the reference first; default: all.")] = "",
    alignment: Annotated[bool, typer.Option(help="Check whether the images of a case are registered (slow).")] = True,
    kind: Kinds = None,
) -> None:
    """Read every file; compare grids, positions and labels; find patients on both sides of a split."""
    from differseg_med.cohort.check.check import check_cohort, report_lines, write_check

    def job() -> None:
        found = check_cohort(read_table(table, modalities, kind), alignment=alignment, progress=progress("case"))
        for line in report_lines(found):
            typer.echo(line)
        if out is not None:
            write_check(found, out)
        errors = [finding for finding in found.findings if finding.level == "error"]
        if errors:
            raise SystemExit(f"{len(errors)} error{'s' * (len(errors) > 1)}")

    sys.exit(exit_code(job))


def kinds(table: Table, kind: Kinds = None) -> None:
    """Declare the kind of image in each column, in a file beside the table. Without --kind: show it."""
    from differseg_med.cohort.kinds import write_kinds
    from differseg_med.modality import KINDS

    def job() -> None:
        cohort = read_table(table, kinds=kind)
        if kind:
            write_kinds(table, cohort.kinds)
        tell_kinds(table, cohort.modalities, cohort.kinds)
        typer.echo("KIND is one of:")
        for line in text_table([{"kind": name, "": known.label} for name, known in KINDS.items()])[1:]:
            typer.echo(f"  {line}")

    sys.exit(exit_code(job))


def folds(
    table: Table,
    k: Annotated[int, typer.Option("--k", help="Number of folds.")] = 5,
    stratify: Annotated[
        str, typer.Option(help="Columns to balance, with commas; also modalities and label_volume (measured).")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the random order.")] = 0,
    validation: Annotated[int | None, typer.Option(help="Make this fold the split validation, others train.")] = None,
    reshuffle: Annotated[
        bool, typer.Option("--reshuffle", help="Also assign cases that have a fold or split already.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Table to write; default: the same one.")] = None,
    force: Force = False,
) -> None:
    """Fill the column fold where it is blank: subjects together, --stratify spread evenly. Test cases get none."""
    from differseg_med.cohort.check.check import label_volumes

    def job() -> None:
        cohort = read_table(table)
        if cohort.problem is not None:
            raise cohort.problem
        failed = [case.problem for case in cohort.cases if case.problem is not None]
        cases = [case for case in cohort.cases if case.split != "test" and case.problem is None]
        wanted = names(stratify)
        values = {"label_volume": label_volumes(cases, progress("case"))} if "label_volume" in wanted else {}
        criteria = levels_of(cases, wanted, values)
        kept = {} if reshuffle else kept_folds(cases)
        try:
            chosen = assign_folds([case.subject_id for case in cases], criteria, k, seed, kept)
        except ValueError as error:
            raise SystemExit(f"{error}. Folds are kept unless --reshuffle is given." if kept else str(error)) from error
        done = with_folds(cases, chosen, validation, reshuffle=reshuffle)
        placed = {case.case_id: case for case in done}
        if kept:
            count = sum(bool(case.fold) for case in cases)
            typer.echo(f"{count} cases keep the fold that they have; --reshuffle assigns them again")
        rows_done = [placed.get(case.case_id, case) for case in cohort.cases]
        target = out or table
        data = [path for case in cohort.cases for path in inputs_of(case)]
        with written_table(target, "folds", data, force=force, in_place=_same(target, table)):
            write_cohort(target, cohort.modalities, rows_done, cohort.kinds)
        rows = [
            {"": level.criterion, "level": level.level, **{f"fold {n}": count for n, count in enumerate(level.counts)}}
            for level in balance(criteria, chosen, k)
        ]
        for line in text_table(rows):
            typer.echo(line)
        if failed:
            raise SystemExit("\n".join([*map(str, failed), f"{len(failed)} rows keep no fold"]))

    sys.exit(exit_code(job))


def register(
    table: Table,
    out: OutDir,
    modalities: Annotated[str, typer.Option(help="Modalities to move; default: all but the first of the table.")] = "",
    method: Annotated[Method, typer.Option("--register", help="Transforms to use.")] = Method.RIGID,
) -> None:
    """Register the modalities to the first: volumes with new affines, transforms (.tfm), overlays, OUT/cohort.csv."""
    from differseg_med.cohort.registration.register import register_cohort

    def job() -> None:
        done = register_cohort(read_table(table), out, names(modalities), method=method, progress=progress("case"))
        _tell(done, out)

    sys.exit(exit_code(job))


def n4(
    table: Table, out: OutDir, modalities: Annotated[str, typer.Option(help="MR columns to correct, with commas.")]
) -> None:
    """Correct the bias field of MR images (N4): new volumes and OUT/cohort.csv."""
    from differseg_med.cohort.registration.register import correct_cohort

    def job() -> None:
        _tell(correct_cohort(read_table(table), out, names(modalities), progress=progress("case")), out)

    sys.exit(exit_code(job))


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _tell(done: Sequence[Changed], out: Path) -> None:
    from differseg_med.cohort.registration.register import TABLE

    for changed in done:
        for note in changed.notes:
            typer.echo(f"{changed.case.case_id}: {note}")
    failed = [changed.error for changed in done if changed.error is not None]
    typer.echo(f"{shown(out / TABLE)}: {len(done) - len(failed)} of {len(done)} cases done, failed ones keep their row")
    if failed:
        raise SystemExit("\n".join(str(error) for error in failed))
