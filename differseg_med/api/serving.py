"""A bundle beside a PACS: studies that fit a rule are segmented, and the results stored with them, each once."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from differseg_med.api.runs import predict
from differseg_med.bundles.workflows import declared_modalities
from differseg_med.cohort.scan.rules import Rules, load_rules
from differseg_med.cohort.scan.scan import scan_folder
from differseg_med.cohort.table import write_cohort
from differseg_med.errors import CaseError, os_problem
from differseg_med.export.registry import FORMATS
from differseg_med.pacs import list_series, pull
from differseg_med.pacs.connection import Client
from differseg_med.pacs.journal import FAILED, PREDICTED, SEEN, SKIPPED, STORED, Entry, Journal, wait_s
from differseg_med.pacs.store import is_on_server, push
from differseg_med.pacs.studies import RemoteStudy, list_studies, parse_rule
from differseg_med.paths import inside
from differseg_med.prediction.summary import DONE
from differseg_med.prediction.writers import in_order
from differseg_med.runs.folder import occupied

logger = logging.getLogger(__name__)

DERIVED = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "DOC", "REG")
"""Modalities of what is no image: our own results among them."""

IMAGES, TABLE, RESULTS = "images", "cohort.csv", "results"


class NotWantedError(Exception):
    """A study that has not what the bundle needs, in words."""


@dataclass(frozen=True)
class Service:
    """What is done for each study, and when.

    Args:
        bundle: folder of the bundle.
        out: folder of the journal, and of a folder per study.
        rule: which studies, see `differseg_med.pacs.studies.parse_rule`.
        series_rules: which series is which modality, as for ``cohort scan``.
        need: modalities without which a study is skipped; one of the bundle's at least is needed anyway.
        formats: what is stored: ``dicom-seg``, ``rtstruct``, ``dicom-sr``.
        settle_s: how long a study's number of images has been the same before it counts as complete.
        first_wait_s: after a failure; twice as long after each further one, an hour at most.
        attempts: after so many failures a study is given up.
        keep: keep the images that were fetched.
        options: further arguments of `differseg_med.api.runs.predict`.
    """

    bundle: Path
    out: Path
    rule: Sequence[str] = ()
    series_rules: str = "default"
    need: Sequence[str] = ()
    formats: Sequence[str] = ("dicom-seg",)
    settle_s: float = 60.0
    first_wait_s: float = 60.0
    attempts: int = 5
    keep: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Judge what can be judged before the first study.

        Raises:
            CaseError: for a rule, format or modality that is none.
        """
        parse_rule(self.rule, datetime.now().date())
        load_rules(self.series_rules)
        possible = [name for name, kind in FORMATS.items() if kind.needs_dicom]
        if strangers := [name for name in self.formats if name not in possible]:
            raise CaseError(f"a PACS takes no {strangers[0]!r}", expected=f"some of {', '.join(possible)}")
        if strangers := [name for name in self.need if name not in declared_modalities(self.bundle)]:
            known = ", ".join(declared_modalities(self.bundle))
            raise CaseError(f"the bundle has no modality {strangers[0]!r}", expected=f"some of {known}")


def serve(
    service: Service,
    connect: Callable[[], Client],
    *,
    every_s: float = 60.0,
    once: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> list[Entry]:
    """Look for studies, again and again or once, and do what is to be done for each.

    Whatever kills the process, the next one goes on: a study is computed until its results lie in files, and these go
    to the server under the UIDs that they have there, which is asked first whether it has them.

    Args:
        service: what to do.
        connect: gives a client of the server.
        every_s: between two looks; longer, up to an hour, while the server does not answer.
        once: look once.
        pause: waits.

    Returns:
        The journal's entries, after one look.

    Raises:
        CaseError: if it cannot start; with ``once`` also if the server does not answer.
    """
    service.check()
    client = connect()
    with occupied(service.out, go_on="The same command goes on."):
        journal, failures = Journal(service.out), 0
        try:
            while True:
                try:
                    look(service, client, journal)
                    failures = 0
                except CaseError as error:
                    if once:
                        raise
                    failures += 1
                    logger.error("%s", error)
                if once:
                    return journal.entries()
                pause(max(every_s, wait_s(failures, every_s) if failures else 0.0))
        finally:
            journal.close()


def in_words(entries: Sequence[Entry]) -> str:
    """How many studies are in which state."""
    counts = Counter(entry.state for entry in entries)
    words = ", ".join(f"{number} {state}" for state, number in counts.items())
    return f"{len(entries)} studies: {words}" if counts else "no study"


def look(service: Service, client: Client, journal: Journal) -> None:
    """Ask once for studies, and do each that is due.

    Raises:
        CaseError: if the server does not say which studies it has.
    """
    for entry in journal.entries(PREDICTED):  # first what only has to be stored
        _attempt(service, journal, entry, partial(_store, service, client, journal, entry))
    now = time.time()
    for study in list_studies(client, parse_rule(service.rule, datetime.now().date())):
        entry = journal.see(journal.name(study.uid), -1 if study.instances is None else study.instances, now)
        if entry.state == SEEN and now >= entry.changed + service.settle_s:
            _attempt(service, journal, entry, partial(_do, service, client, journal, study, entry))


def _attempt(service: Service, journal: Journal, entry: Entry, job: Callable[[], None]) -> None:
    """Do a job for a study; what goes wrong is noted and tried again later."""
    if time.time() < entry.due:
        return
    try:
        job()
    except NotWantedError as why:
        journal.finish(entry.study, SKIPPED, str(why))
        logger.info("study %s: skipped, %s", entry.study, why)
    except Exception as error:  # one study must not end the service, nor every service that is started after it
        problem = os_problem(error) if isinstance(error, OSError) else error
        if not isinstance(problem, CaseError):  # whose words may hold anything
            problem = CaseError(f"a fault of the program: {type(error).__name__}")
        state = journal.retry(entry.study, str(problem), time.time(), service.first_wait_s, service.attempts)
        more = "given up" if state == FAILED else "tried again later"
        logger.error("study %s: %s: %s", entry.study, more, problem)
    found = journal.entry(entry.study)
    if not service.keep and found is not None and found.state in (STORED, SKIPPED, FAILED):
        shutil.rmtree(inside(service.out, entry.study) / IMAGES, ignore_errors=True)


def _do(service: Service, client: Client, journal: Journal, study: RemoteStudy, entry: Entry) -> None:
    """Fetch, segment, store."""
    folder = inside(service.out, entry.study)
    rules = load_rules(service.series_rules)
    wanted = [series.uid for series in list_series(client, study.uid) if _is_wanted(series.modality, rules)]
    if not wanted:
        raise NotWantedError("it has no series of a modality that the rules name")
    pull(client, study.uid, folder / IMAGES, series=wanted)
    table = _table(service, folder, rules)
    result = predict(
        service.bundle, table, folder / RESULTS, resume=True, formats=list(service.formats), **service.options
    )
    (row,) = result.rows
    if row["status"] != DONE:
        raise CaseError(f"the study could not be segmented: {row['reason']}")
    names = [name for name in in_order(service.formats) if FORMATS[name].needs_dicom]
    files = [f"{entry.study}/{RESULTS}/{row['case_id']}/{FORMATS[name].file}" for name in names]
    predicted = journal.predicted(entry.study, files)
    logger.info("study %s: segmented, %s ml", entry.study, row.get("volume_ml", "?"))
    _store(service, client, journal, predicted)


def _is_wanted(modality: str, rules: Rules) -> bool:
    named = {rule.modality for rule in rules.modalities}
    return modality not in DERIVED and (modality in named or "" in named)


def _table(service: Service, folder: Path, rules: Rules) -> Path:
    """The cohort table of the one study.

    Raises:
        NotWantedError: if its series are not what is needed.
    """
    scan = scan_folder(folder / IMAGES, rules)
    names = declared_modalities(service.bundle)
    if len(scan.cases) != 1:
        raise NotWantedError(f"the rules find {len(scan.cases)} cases in it")
    (case,) = scan.cases
    present = [name for name in names if name in case.images]
    if absent := [name for name in service.need if name not in present]:
        raise NotWantedError(f"no series that the rules take for {', '.join(absent)}")
    if not present:
        raise NotWantedError(f"no series that the rules take for one of {', '.join(names)}")
    kinds = {name: kind for name, kind in scan.kinds.items() if name in present}
    write_cohort(folder / TABLE, names, [case], kinds)  # absent ones are blank
    return folder / TABLE


def _store(service: Service, client: Client, journal: Journal, entry: Entry) -> None:
    """Store the results that the server has not yet."""
    for name in entry.files:
        file = inside(service.out, *name.split("/"))
        if not is_on_server(client, file):
            push(client, [file])
    journal.finish(entry.study, STORED)
    logger.info("study %s: %d files are on the server", entry.study, len(entry.files))
