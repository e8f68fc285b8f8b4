"""The one error that users see: what is wrong with which case and file, and what to do; how it ends a command."""

from __future__ import annotations

import errno
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of what is not seen: control and format characters, surrogates, separators of lines."""


Level = Literal["ok", "note", "warning", "error"]
"""``ok`` needs nothing, a ``note`` says what was done, a ``warning`` deserves a look, an ``error`` stops the case."""


@dataclass(frozen=True)
class Finding:
    """What there is to say about a case, a file or a cohort: the one type of all notes, warnings, flags and problems.

    Args:
        level: how much it matters.
        text: what was found, with numbers.
        remedy: what the user can do; empty where nothing need be done.
        case: case id, if it concerns one.
        file: the file or series concerned, if known.
        column: column of the cohort table, if it concerns one.
    """

    level: Level
    text: str
    remedy: str = ""
    case: str | None = None
    file: Path | None = None
    column: str = ""

    def __str__(self) -> str:
        return f"{self.column}: {self.text}" if self.column else self.text


VERBOSE = "DIFFERSEG_VERBOSE_PATHS"
"""Environment variable that ``--verbose-paths`` sets: messages then show folders, and names from inside files."""


def private(text: object, instead: str = "[hidden]") -> str:
    """A text that may name a patient (a folder, a description, a region, a UID): hidden unless it was asked for."""
    return str(text) if os.environ.get(VERBOSE) else instead


def _is_folder(path: Path) -> bool:
    """Whether it is one; a name that no disk takes is none, and must not stop the message about it."""
    try:
        return path.is_dir()
    except OSError:
        return False


def shown(path: str | Path) -> str:
    """A path as output and log show it: the name of a file, of a folder that it is the output folder."""
    path = Path(path)
    return private(path, path.name if path.suffix and not _is_folder(path) else "the output folder")


class CaseError(Exception):
    """A problem with one case or table that its owner can act on.

    It stops that case only: the other cases of a run go on. The message names the case, and the column of the table or
    the last part of the file's name; of a folder not even that, since exports call folders after the patient.

    Args:
        problem: what is wrong, in a clinician's words.
        case: case id from the cohort table.
        file: the file or folder concerned.
        expected: what was expected.
        found: what came instead.
        remedy: what the user can do.
    """

    def __init__(
        self,
        problem: str,
        *,
        case: str | None = None,
        file: str | Path | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.case, self.file = problem, case, None if file is None else Path(file)
        self.expected, self.found, self.remedy = expected, found, remedy
        self.column = ""
        super().__init__(problem)

    def __reduce__(self) -> tuple[Any, ...]:
        """An error of a process that reads ahead comes back whole, whatever arguments its class has."""
        return _again, (type(self), self.args), self.__dict__

    def _where(self) -> list[str]:
        where = [f"case {self.case}"] if self.case else []
        if self.file is not None:
            where.append(private(f"file {'/'.join(self.file.parts[-2:])}", self._place(self.file)))
        return where

    def __str__(self) -> str:
        where = self._where()
        text = f"{', '.join(where)}: {self._said()}" if where else self._said()
        return printable(f"{text}. {self.remedy}" if self.remedy else text)

    def _said(self) -> str:
        """What is wrong, and in brackets what was expected and found."""
        known = (("expected", self.expected), ("found", self.found))
        detail = ", ".join(f"{name} {value}" for name, value in known if value is not None)
        return f"{self.problem} ({detail})" if detail else self.problem

    @property
    def finding(self) -> Finding:
        """The same as a finding of level ``error``, without case and file in its text."""
        return Finding("error", self._said(), self.remedy or "", case=self.case, file=self.file, column=self.column)

    def _place(self, file: Path) -> str:
        if self.column:
            return f"column {self.column}"
        return f"file {file.name}" if file.suffix and not _is_folder(file) else "a folder or file without ending"

    def for_case(self, case: str, files: Mapping[str, Path | None] | None = None) -> CaseError:
        """The same error, told of ``case`` unless it already names one.

        Args:
            case: its id.
            files: cells of the case by column: the message names the column in place of the file.
        """
        if self.case is None:
            self.case = case
        paths = {column: Path(str(cell).split("::")[0]) for column, cell in (files or {}).items() if cell is not None}
        if (file := self.file) is not None:
            fitting = [column for column, path in paths.items() if file == path or path in file.parents]
            self.column = max(fitting, key=lambda column: len(paths[column].parts), default=self.column)
        return self


def _again(kind: type[CaseError], args: tuple[Any, ...]) -> CaseError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigError(CaseError):
    """A problem with an entry of a bundle's configuration.

    Args:
        problem: what is wrong.
        entry: its id, ``train::samples::dropout_weights`` for example.
        given: how it was given where that was not a file: ``--set``.
        file: the configuration that has it.
        expected: what was expected.
        found: what came instead.
        remedy: what the user can do.
    """

    def __init__(
        self,
        problem: str,
        *,
        entry: str,
        given: str = "",
        file: str | Path | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem, file=file, expected=expected, found=found, remedy=remedy)
        self.entry, self.given = entry, given

    def _where(self) -> list[str]:
        return [f"entry {self.entry}{f' ({self.given})' if self.given else ''}", *super()._where()]


DISK = (
    *(errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC), getattr(errno, "ESTALE", errno.EIO)),
)
"""What the system says when a file cannot be written or read for reasons that its owner can mend."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as shells have them."""


def exit_code(job: Callable[[], object]) -> int:
    """Run a job, tell what stops it in one message, and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # What MONAI and ignite say of themselves on every run; our own messages and progress bars tell the rest.
    for name in ("ignite", "monai", "monai.bundle.workflows", "highdicom"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        job()
    except CaseError as error:
        logger.error("%s", error)
        return 1
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            return int(stop.code or 0)
        logger.error("%s", stop.code)
        return 1
    except KeyboardInterrupt as stop:  # what was kept has been told where it was interrupted
        return INTERRUPTED if type(stop) is KeyboardInterrupt else TERMINATED
    except OSError as error:
        logger.error("%s", os_problem(error))
        return 1
    return 0


def printable(text: str) -> str:
    """The text with control characters, line breaks and halves of characters escaped.

    Texts from files, tables and servers may hold sequences that a terminal obeys, or that no file can be written with.
    """
    return "".join(
        c if c == " " or unicodedata.category(c) not in HIDDEN else c.encode("unicode_escape").decode() for c in text
    )


def os_problem(error: OSError) -> CaseError:
    """What the system refused, in one sentence: a full disk, no permission, a file in place of a folder."""
    name = error.filename2 or error.filename
    reasons = {
        errno.ENOSPC: ("the disk is full", "Make room, then run it again."),
        getattr(errno, "EDQUOT", -1): ("your share of the disk is used up", "Make room, then run it again."),
        errno.EROFS: ("the disk is read-only", "Choose another --out."),
        errno.EACCES: ("there is no permission to read or write here", "Ask for it, or choose another --out."),
        errno.EPERM: ("there is no permission to read or write here", "Ask for it, or choose another --out."),
        errno.ENOTDIR: ("a file stands where a folder is needed", "Choose another --out."),
        errno.EEXIST: ("a file stands where a folder is needed", "Choose another --out."),
        errno.EISDIR: ("a folder stands where a file is needed", "Choose another name."),
        errno.ENOENT: ("there is no such file or folder", "Check the path."),
        errno.ENAMETOOLONG: ("the name is too long for this disk", "Choose a shorter one."),
    }
    problem, remedy = reasons.get(error.errno or 0, (f"the system says: {error.strerror or error}", "Check the disk."))
    return CaseError(problem, file=name if isinstance(name, str) else None, remedy=remedy)


def without_folders(text: str) -> str:
    """The text without folders, which may hold names: of a path between quotation marks its last part is left.

    Where a path has no marks nobody can tell where it ends, as folders have spaces: all from its beginning to the last
    separator is left out. A relative path begins at the last colon, bracket or comma.
    """
    text = re.sub(r"""(['"])[^'"]*[/\\]([^'"/\\]*)\1""", r"\1\2\1", text)
    if (first := re.search(r"[/\\]", text)) is not None:
        head, tail = text[: first.start()], re.split(r"[/\\]", text)[-1]
        if re.search(r"(^|[\s:,;=(\[{'\"])([A-Za-z]:)?$", head):
            text = re.sub(r"\b[A-Za-z]:$", "", head) + tail
        else:
            text = re.sub(r"[^:,;=(\[{'\"]*$", "", head) + tail
    return " ".join(text.split())
