"""Tables that a command writes and people edit: ours to replace, or theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from differseg_med.atomic import announcing
from differseg_med.errors import CaseError
from differseg_med.runs.folder import occupied
from differseg_med.runs.manifest import FINISHED, Step, read_steps, write_steps
from differseg_med.runs.stamps import file_hash

_BEFORE = "before"
"""Step of the table that is about to be replaced: after a kill the old one may lie there, or the new one."""


@contextmanager
def written_table(
    out: str | Path, step: str, inputs: Iterable[Path] = (), *, force: bool = False, in_place: bool = False
) -> Iterator[None]:
    """Write a table, and remember beside it (``cohort.run.json``) what was written and by which command.

    Args:
        out: the table.
        step: name of the command.
        inputs: files that are never written.
        force: replace a table that was made or changed by hand.
        in_place: the table is to be changed, as the command's own input. A copy of what people made of it is kept:
            ``cohort.before_folds.csv``.

    Raises:
        CaseError: if there is a table that no command wrote like this, and neither ``force`` nor ``in_place``.
    """
    out = Path(out)
    manifest = f"{out.stem}.run.json"
    with occupied(out.parent, inputs, deep=False):
        steps = read_steps(out.parent, manifest)
        digest = file_hash(out) if out.exists() else None
        held = next((known for known in steps.values() if digest and known.results.get(out.name) == digest), None)
        if digest and held is None and in_place:
            shutil.copy2(out, out.with_name(f"{out.stem}.before_{step}{out.suffix}"))
        elif digest and held is None and not force:
            raise CaseError(
                "there is a table of this name that was made or changed by hand",
                file=out,
                remedy="Choose another --out, or replace it with --force.",
            )
        made = Step.now({})
        others = {name: known for name, known in steps.items() if name != _BEFORE}

        def record(written: Path) -> None:
            made.results[out.name] = file_hash(written)
            write_steps(out.parent, {**others, **({_BEFORE: held} if held else {}), step: made}, manifest)

        with announcing(out, record):
            yield
        made.results[out.name] = file_hash(out)
        write_steps(out.parent, {**others, step: made.ended_as(FINISHED)}, manifest)
