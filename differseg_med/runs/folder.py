"""An output folder while a run writes into it, and what becomes of the results of the run before."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from differseg_med.atomic import sweep
from differseg_med.case import Case
from differseg_med.errors import CaseError, shown
from differseg_med.guard import holds_data, protecting
from differseg_med.runs.lock import locked
from differseg_med.runs.names import EARLIER, MANIFEST

logger = logging.getLogger(__name__)


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM): a queue, a shutdown; handled like Ctrl-C."""


@contextmanager
def occupied(folder: str | Path, inputs: Iterable[Path] = (), go_on: str = "", *, deep: bool = True) -> Iterator[None]:
    """Write into a folder: alone, with a clean start, never onto the inputs.

    Args:
        folder: is created; what killed runs left half written there is removed.
        inputs: files and folders of data that are never written, see `protecting`.
        go_on: told when the run is interrupted: how to go on.
        deep: look for half-written files below the folder too, which is the run's own.

    Raises:
        CaseError: if another process writes there, or nobody can.
    """
    folder = Path(folder)
    with locked(folder) as first, protecting(folder, inputs), _terminating():
        if first and (left := sweep(folder, deep=deep)):
            logger.info("%s: %d half-written files of a run that was killed are removed", shown(folder), left)
        try:
            yield
        except KeyboardInterrupt as stop:
            if first:
                why = "the system ended the run" if isinstance(stop, Terminated) else "interrupted"
                logger.error("%s; what was finished is kept in %s. %s", why, shown(folder), go_on)
            raise


@contextmanager
def _terminating() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that reports are written; only where nobody else handles it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    here = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if here:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def refuse_data(folder: Path, cases: Sequence[Case]) -> None:
    """Refuse an output folder in which the folder of a case holds data of the cohort.

    Raises:
        CaseError: naming the case.
    """
    for case in cases:
        if case.problem is None and holds_data(folder / case.case_id):
            raise CaseError(
                "results and data would lie in one folder, and files would replace each other",
                case=case.case_id,
                file=folder / case.case_id,
                remedy="Choose another folder with --out, apart from the data.",
            )


def earlier_folder(folder: Path, when: str = "", prefix: str = "") -> Path:
    """A folder in ``earlier_runs`` that is not there yet, named by when the earlier run started; default: now."""
    stem = prefix + (when or datetime.now(timezone.utc).isoformat(timespec="seconds"))[:19].replace(":", "-")
    target, number = folder / EARLIER / stem, 1
    while target.exists():
        number += 1
        target = folder / EARLIER / f"{stem}_{number}"
    return target


def set_aside(folder: Path, names: Iterable[str], when: str = "") -> Path | None:
    """Move results of an earlier run out of the way, into ``earlier_runs/<when it started>``; nothing is deleted.

    Args:
        folder: of the run.
        names: files and folders in it; those that are not there are passed over.
        when: the earlier run started.

    Returns:
        Where they are now; None if there was nothing.

    Raises:
        CaseError: if one of them holds data of the cohort.
    """
    present = [folder / name for name in dict.fromkeys(names) if name and (folder / name).exists()]
    if not present:
        return None
    for path in present:
        if holds_data(path):
            raise CaseError(
                "results of an earlier run and data of the cohort lie in one folder",
                file=path,
                remedy="Choose another folder with --out, apart from the data.",
            )
    target = earlier_folder(folder, when)
    target.mkdir(parents=True)
    for path in sorted(present, key=lambda path: path.name != MANIFEST):  # without it nothing there counts as finished
        path.rename(target / path.name)
    logger.warning("%s: the results of an earlier run are now in %s", shown(folder), target.relative_to(folder))
    return target
