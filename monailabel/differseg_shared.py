"""What prediction and training of the app share: names of files, messages, and the commands of differseg_med."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_ENTRY = "from differseg_med.cli import app; app()"


def said(status: int, text: str) -> HTTPException:
    """An answer that clients show; other exceptions reach them without words."""
    return HTTPException(status_code=status, detail=text)


def parted(name: str, modalities: Sequence[str]) -> tuple[str, str]:
    """What is before the modality in the name of an image, and the modality: ``("a_", "t1")`` of ``a_t1``.

    Raises:
        HTTPException: if the name does not end in one.
    """
    for modality in sorted(modalities, key=len, reverse=True):
        if name == modality or name.endswith((f"_{modality}", f"-{modality}")):
            return name[: len(name) - len(modality)], modality
    ends = ", ".join(f"_{modality}" for modality in modalities)
    raise said(400, f"No modality is known of image {name}: its name must end in one of {ends}.")


def ending_of(file: Path) -> str:
    """The ending of a file's name, ``.nii.gz`` for example; blank for one that is not read."""
    return next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), "")


def files_of_case(image: Path, modalities: Sequence[str]) -> tuple[str, dict[str, Path]]:
    """The modality of an image, and the files of its case that lie beside it; what is not there is missing."""
    before, opened = parted(image.name.removesuffix(ending_of(image)), modalities)
    candidates = [(name, image.with_name(f"{before}{name}{ending}")) for name in modalities for ending in SUFFIXES]
    return opened, {name: path for name, path in reversed(candidates) if path.is_file()} | {opened: image}


class Program:
    """The commands of differseg_med, in its own environment.

    Args:
        python: of that environment.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        # Its commands for a PACS take user and password from the environment, as MONAI Label does, by other names.
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        self._login = {"DIFFERSEG_PACS_USER": user, "DIFFERSEG_PACS_PASSWORD": password} if user and password else {}

    def __call__(self, *arguments: str) -> str:
        """What a command prints.

        Raises:
            HTTPException: with its last line, if it failed.
        """
        with self._started(arguments, stderr=subprocess.PIPE) as process:
            try:
                printed, complaint = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise said(500, last_line(complaint or printed))
        return printed

    def follow(self, *arguments: str, watch: Callable[[], None]) -> None:
        """Run a command that takes long; its lines go to the log while it prints them.

        It has a group of processes of its own: if this call is interrupted, or the command is killed, all of them end.

        Args:
            arguments: of the command.
            watch: called every second, and once more at the end.

        Raises:
            HTTPException: with its last line, if it failed.
        """
        lines = deque[str](maxlen=5)

        def read() -> None:
            for line in process.stdout or ():
                if line.strip():
                    lines.append(line.strip())
                    logger.info("%s", line.rstrip())

        with self._started(arguments, stderr=subprocess.STDOUT, start_new_session=True) as process:
            reader = Thread(target=read, daemon=True)
            reader.start()
            try:
                while process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(1)
                    watch()
            finally:
                if process.poll() is None or process.returncode < 0:
                    kill_group(process)
                reader.join(10)
        watch()
        if process.returncode:
            raise said(500, last_line("\n".join(lines)))

    def _started(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        here = Path(__file__).resolve().parent  # MONAI Label adds this folder, which has a module "main"
        kept = os.pathsep.join(path for path in paths if path and Path(path).resolve() != here)
        words = [self._python, "-c", _ENTRY, *arguments]
        environment = {**os.environ, **self._login, "PYTHONPATH": kept}
        try:
            return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, **options)
        except OSError as error:
            raise said(500, f"differseg_med cannot be started: {error.strerror}") from error


def last_line(text: str) -> str:
    """The line in which a command says what was wrong."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "differseg_med said nothing"


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a process that leads a group, and what it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
