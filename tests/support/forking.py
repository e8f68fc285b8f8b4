"""A program in a process of its own that need not import torch and MONAI again: 8 s of each test that starts one."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


def run_program(program: str | Path, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What ``python -m program`` (or ``python program`` for a path) does, in a fork of this process.

    Our own package is imported anew, so that what it does at its import happens; an error that nobody catches goes to
    ``sys.excepthook`` and the exit code is 1, as in the interpreter. ``args, returncode, stdout, stderr`` are set.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _be(program, [str(a) for a in arguments], out.fileno(), err.fileno(), cwd)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([str(program), *map(str, arguments)], code, *texts)


def in_fork(work: Callable[[], str]) -> str:
    """What ``work`` returns in a fork of this process: nothing that it changes or loads is left here.

    An exception comes back as the text of its traceback.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            try:
                text = work()
            except BaseException:
                text = traceback.format_exc()
            os.write(said.fileno(), text.encode())
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return said.read().decode() or (f"ended with {code}" if code else "")


def _be(program: str | Path, arguments: Sequence[str], out: int, err: int, cwd: Path | None) -> NoReturn:
    """The child: nothing of pytest's is left to hear or to answer, and it never returns."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(fd), "w", encoding="utf-8") for fd in (1, 2))
        sys.excepthook = sys.__excepthook__
        for logger in (logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))):
            logger.handlers.clear()
        logging.root.setLevel(logging.WARNING)
        for name in [name for name in sys.modules if name.split(".")[0] == "differseg_med"]:
            del sys.modules[name]
        os.chdir(cwd or Path.cwd())
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = [str(program), *arguments]
        try:
            if isinstance(program, Path):
                runpy.run_path(str(program), run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                sys.stderr.write(f"{ended.code}\n")
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
