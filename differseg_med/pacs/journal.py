"""What became of each study of a server, kept in SQLite so that no kill lets one be forgotten or done twice.

Studies have names of their own here: a keyed hash of the StudyInstanceUID, whose key stays beside the journal.
"""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from differseg_med.cohort.scan.choose import read_salt
from differseg_med.errors import CaseError

FILE = "journal.sqlite"

SEEN, PREDICTED, STORED, SKIPPED, FAILED = "seen", "predicted", "stored", "skipped", "failed"
"""States: waiting or being computed; computed, and its files go to the server; all is there; not wanted; given up."""

LONGEST_WAIT_S = 3600.0

_COLUMNS = "study, state, instances, changed, attempts, due, reason, files"


@dataclass(frozen=True)
class Entry:
    """A study in the journal.

    Args:
        study: its name here.
        state: one of the states above.
        instances: as the server counted last; -1 where it does not say.
        changed: when that number was new, in seconds since 1970.
        attempts: how often it failed.
        due: when it is tried again.
        reason: why it failed last or is skipped.
        files: what goes to the server, paths in the output folder.
    """

    study: str
    state: str
    instances: int
    changed: float
    attempts: int = 0
    due: float = 0.0
    reason: str = ""
    files: tuple[str, ...] = ()

    @property
    def failing(self) -> bool:
        """Whether it failed last, whether or not it is tried again."""
        return self.attempts > 0 and self.state in (SEEN, PREDICTED, FAILED)


class Journal:
    """The journal in an output folder; every change is on the disk when its method returns.

    Raises:
        CaseError: if the file is there and no journal.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        self._key = read_salt(self.path).encode()
        try:
            self._base = sqlite3.connect(self.path, isolation_level=None)
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS studies (study TEXT PRIMARY KEY, state TEXT NOT NULL, instances INTEGER "
                "NOT NULL, changed REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, "
                "reason TEXT NOT NULL DEFAULT '', files TEXT NOT NULL DEFAULT '[]')"
            )
            self._base.execute(f"SELECT {_COLUMNS} FROM studies LIMIT 1")
        except sqlite3.DatabaseError as error:
            remedy = "Move it away: all studies then count as new, those too whose results the server has."
            raise CaseError("this is no journal of serve", file=self.path, remedy=remedy) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def name(self, study_uid: str) -> str:
        """What a study is called here: one part of a path, from which nobody finds the UID."""
        return hmac.new(self._key, study_uid.encode(), "sha256").hexdigest()[:16]

    def entry(self, study: str) -> Entry | None:
        """A study, None if it has not been seen."""
        found = self._entries("WHERE study = ?", study)
        return found[0] if found else None

    def entries(self, *states: str) -> list[Entry]:
        """The studies in some of the states, or all, the longest known first."""
        marks = ", ".join("?" * len(states))
        return self._entries(f"WHERE state IN ({marks}) ORDER BY rowid" if states else "ORDER BY rowid", *states)

    def see(self, study: str, instances: int, now: float) -> Entry:
        """Note that the server has a study, with so many instances; it waits anew when their number has changed."""
        self._base.execute(
            "INSERT INTO studies (study, state, instances, changed) VALUES (?, ?, ?, ?) ON CONFLICT (study) DO UPDATE "
            "SET instances = excluded.instances, changed = excluded.changed "
            "WHERE state = ? AND instances != excluded.instances",
            (study, SEEN, instances, now, SEEN),
        )
        (found,) = self._entries("WHERE study = ?", study)
        return found

    def predicted(self, study: str, files: Sequence[str]) -> Entry:
        """The results lie in these files, and nothing of them is on the server yet."""
        self._change(study, state=PREDICTED, files=json.dumps(list(files)), attempts=0, due=0.0, reason="")
        (found,) = self._entries("WHERE study = ?", study)
        return found

    def finish(self, study: str, state: str, reason: str = "") -> None:
        """A study is done: `STORED`, `SKIPPED` or `FAILED`."""
        self._change(study, state=state, reason=reason)

    def retry(self, study: str, reason: str, now: float, first_wait_s: float, most: int) -> str:
        """A study failed: try it again later, each time twice as late, or give up after so many times.

        Returns:
            The state.
        """
        entry = self.entry(study)
        assert entry is not None
        attempts = entry.attempts + 1
        if attempts >= most:
            self._change(study, state=FAILED, attempts=attempts, reason=reason)
            return FAILED
        self._change(study, attempts=attempts, due=now + wait_s(attempts, first_wait_s), reason=reason)
        return entry.state

    def _change(self, study: str, **values: object) -> None:
        names = ", ".join(f"{name} = ?" for name in values)  # ours, never from outside
        self._base.execute(f"UPDATE studies SET {names} WHERE study = ?", (*values.values(), study))

    def _entries(self, condition: str, *values: str) -> list[Entry]:
        rows = self._base.execute(f"SELECT {_COLUMNS} FROM studies {condition}", values).fetchall()
        return [replace(Entry(*row[:-1]), files=tuple(json.loads(row[-1]))) for row in rows]


def wait_s(attempts: int, first_s: float) -> float:
    """How long to wait after so many failures: twice as long after each, an hour at most."""
    return float(min(first_s * 2.0 ** min(attempts - 1, 20), LONGEST_WAIT_S))
