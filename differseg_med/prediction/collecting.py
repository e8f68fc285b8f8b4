"""The shards of a prediction put together: masks, summary, manifest and page, as of one process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from differseg_med.errors import CaseError, shown
from differseg_med.prediction.resuming import RESULTS, STEP
from differseg_med.prediction.summary import DONE, FILE, Summary, SummaryRow, read_summary
from differseg_med.reports.provenance import provenance
from differseg_med.reports.run import write_results_page
from differseg_med.runs.folder import earlier_folder, occupied, set_aside
from differseg_med.runs.manifest import FINISHED, RUNNING, Step, list_differences, read_steps, write_steps
from differseg_med.runs.names import MANIFEST, SHARDS
from differseg_med.runs.shards import Shard, shards_in

logger = logging.getLogger(__name__)

_SHARED = "derivatives"
"""Folder of a shard in which files of all cases lie."""


def collect(out: str | Path) -> list[SummaryRow]:
    """Move what the shards made into the folder of the whole run; an earlier run's results there are set aside.

    The manifest says from the first move to the last that this goes on, so that a killed one is taken up again. The
    shards' own manifests and summaries are kept in ``earlier_runs``, whose appearance is the end.

    Args:
        out: folder of the whole run.

    Returns:
        The rows of ``summary.csv``; also if everything was collected before.

    Raises:
        CaseError: if a shard is missing, not finished or running, or they are not of one run.
    """
    out = Path(out)
    with occupied(out, deep=False, go_on="Continue with the same command."):
        shards = shards_in(out)
        earlier = read_steps(out).get(STEP)
        if not shards and earlier is not None and earlier.shard:
            logger.info("%s: all shards are collected already", shown(out))
            return read_summary(out / FILE)
        steps = {shard: _step(shard, folder) for shard, folder in _complete(out, shards).items()}
        _check_same(out, steps)
        order: list[str] = next(iter(steps.values())).shard["cases"]
        rows = _rows(shards, order)
        joined = _joined(steps)
        if earlier is None or earlier.shard != joined.shard:
            old = earlier.inputs if earlier else ()
            set_aside(out, [MANIFEST, *RESULTS, *old, *order], earlier.started if earlier else "")
        write_steps(out, {STEP: replace(joined, state=RUNNING, ended="")})
        for folder in shards.values():
            _move(folder, out, order)
        summary = Summary(out)
        summary.rows = rows
        summary.write()
        made_by = next(iter(steps.values())).shard.get("provenance", {})
        page = write_results_page(rows, out, provenance={**made_by, **provenance()})
        write_steps(out, {STEP: joined})
        _put_away(out, joined.started)
    done = len(summary.with_status(DONE))
    logger.info("%d shards collected, %d of %d cases done: %s", len(shards), done, len(rows), shown(page))
    return rows


def _complete(out: Path, shards: Mapping[Shard, Path]) -> Mapping[Shard, Path]:
    """The shards, all of them, of one number."""
    counts = sorted({shard.of for shard in shards})
    if not counts:
        remedy = "Run predict --shard K/N first, with the same --out."
        raise CaseError("there are no shards here", file=out, expected=f"{SHARDS}/1_of_N and so on", remedy=remedy)
    if len(counts) > 1:
        raise CaseError(
            "these shards do not belong together",
            file=out / SHARDS,
            expected="one number of shards",
            found=", ".join(map(str, shards)),
            remedy="Move those that are not meant out of the folder.",
        )
    if missing := [number for number in range(1, counts[0] + 1) if Shard(counts[0], number) not in shards]:
        raise CaseError(
            "shards are missing",
            file=out / SHARDS,
            expected=f"{counts[0]} shards",
            found=f"none for {', '.join(f'{number}/{counts[0]}' for number in missing[:8])}",
            remedy="Run predict with these --shard, too.",
        )
    return shards


def _step(shard: Shard, folder: Path) -> Step:
    """What a shard's manifest says.

    Raises:
        CaseError: if it is not finished, or of another shard.
    """
    step = read_steps(folder).get(STEP)
    if step is None or step.state != FINISHED:
        raise CaseError(
            f"shard {shard} is not finished",
            file=folder,
            found="nothing yet" if step is None else "killed" if step.state == RUNNING else step.state,
            remedy=f"Run predict --shard {shard} --resume, with the other options as before.",
        )
    if (step.shard.get("number"), step.shard.get("of")) != (shard.number, shard.of):
        remedy = "Give the folder back its name."
        raise CaseError(f"this is not shard {shard}", file=folder, found=_name(step), remedy=remedy)
    return step


def _name(step: Step) -> str:
    return f"{step.shard['number']}/{step.shard['of']}" if step.shard else "a whole run"


def _check_same(out: Path, steps: Mapping[Shard, Step]) -> None:
    """All shards are of one run: the same settings, weights, code, formats and cases.

    Raises:
        CaseError: saying what one of them has otherwise.
    """
    first, *others = steps.items()
    for shard, step in others:
        found = first[1].differences(step)
        if step.results != first[1].results:
            found.append(f"formats: was {', '.join(first[1].results)}, is {', '.join(step.results)}")
        if step.shard["cases"] != first[1].shard["cases"]:
            found.append("other cases in the table, or in another order")
        if found:
            raise CaseError(
                f"shards {first[0]} and {shard} do not belong together",
                file=out / SHARDS,
                found=list_differences(found),
                remedy="Run one of them again with the table and the settings of the others.",
            )
        if step.environment != first[1].environment:
            logger.warning("shards %s and %s: other packages, machine or backend, see run.json", first[0], shard)


def _rows(shards: Mapping[Shard, Path], order: list[str]) -> list[SummaryRow]:
    """The rows of the summary in the order of the cases.

    Raises:
        CaseError: if a shard's summary lacks one.
    """
    held = {}
    for shard, folder in shards.items():
        path = folder / FILE
        held[shard.number] = {str(row["case_id"]): row for row in read_summary(path)} if path.is_file() else {}
    rows = []
    for index, case_id in enumerate(order):
        number = index % len(shards) + 1
        if case_id not in held[number]:
            remedy = f"Run predict --shard {number}/{len(shards)} --resume."
            raise CaseError(f"{FILE} of shard {number} has no row of this case", case=case_id, remedy=remedy)
        rows.append(held[number][case_id])
    return rows


def _joined(steps: Mapping[Shard, Step]) -> Step:
    """What made the whole: the same for the same shards."""
    parts = list(steps.values())
    first = parts[0]
    inputs = {case_id: stamps for step in parts for case_id, stamps in step.inputs.items()}
    return replace(
        first,
        inputs={case_id: inputs[case_id] for case_id in dict.fromkeys(first.shard["cases"]) if case_id in inputs},
        started=min(step.started for step in parts),
        ended=max(step.ended for step in parts),
        remarks=list(dict.fromkeys(remark for step in parts for remark in step.remarks)),
        shard={"collected": [step.started for step in parts]},
    )


def _move(folder: Path, out: Path, order: list[str]) -> None:
    """Move the cases of a shard, those that are still there; then what lies in a folder with that of others."""
    for case_id in dict.fromkeys(order):
        if (folder / case_id).is_dir():
            if (out / case_id).exists():  # made since by somebody else
                set_aside(out, [case_id])
            (folder / case_id).rename(out / case_id)
    for path in sorted((folder / _SHARED).rglob("*")):
        if path.is_file():
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _put_away(out: Path, started: str) -> None:
    """Keep what the shards said of themselves among the earlier runs."""
    target = earlier_folder(out, started, f"{SHARDS}_")
    target.parent.mkdir(exist_ok=True)
    (out / SHARDS).rename(target)
