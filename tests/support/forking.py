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


def fork(job: Callable[[], object], out: int | None = None, err: int | None = None) -> int:
    """Start a fork of this process, with everything that is imported here, and return its id.

    It does ``job`` and ends with 0, with the code of a SystemExit, or with 99 after its traceback. ``out`` and ``err``
    are file descriptors in place of stdout and stderr.
    """
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        for file, number in ((out, 1), (err, 2)):
            if file is not None:
                os.dup2(file, number)
        job()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def run_program(program: str | Path, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What ``python -m program`` (or ``python program`` for a path) does, in a fork of this process.

    Our own package is imported anew, so that what it does at its import happens; an error that nobody catches goes to
    ``sys.excepthook`` and the exit code is 1, as in the interpreter. ``args, returncode, stdout, stderr`` are set.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = fork(lambda: _be(program, [str(a) for a in arguments], cwd), out.fileno(), err.fileno())
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

        def job() -> None:
            try:
                text = work()
            except BaseException:
                text = traceback.format_exc()
            os.write(said.fileno(), text.encode())

        code = os.waitstatus_to_exitcode(os.waitpid(fork(job), 0)[1])
        said.seek(0)
        return said.read().decode() or (f"ended with {code}" if code else "")


def _be(program: str | Path, arguments: Sequence[str], cwd: Path | None) -> NoReturn:
    """Be the program: nothing of pytest's is left to hear or to answer."""
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
    code: object = 0
    try:
        if isinstance(program, Path):
            runpy.run_path(str(program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
