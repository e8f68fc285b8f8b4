"""What disks, permissions and devices refuse; each must end in one sentence and an exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest import mock

from differseg_med.cli import app
from torture import Trial
from torture.common import BUNDLE, cohort

Fault = Callable[[Path], Iterator[None]]


@contextmanager
def refusing(number: int, after: int) -> Iterator[None]:
    """From the ``after``-th file on the system refuses to write, as on a disk that fills up."""
    written, sync = [0], os.fsync

    def fsync(descriptor: int) -> None:
        written[0] += 1
        if written[0] > after:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    with mock.patch("os.fsync", fsync):
        yield


ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "no permission": errno.EACCES, "broken": errno.EIO}
PREDICT = "predict --bundle BUNDLE --cohort TABLE --set roi_size=[32,32] --set planes=[axial] --set pixdim=null"
COMMANDS = {
    "predict": f"{PREDICT} --device cpu --out OUT",
    "evaluate": "evaluate --predictions DATA/masks --cohort TABLE --out OUT",
    "scan": "cohort scan DATA --out OUT/cohort.csv",
    "folds": "cohort folds TABLE --k 2 --out OUT/cohort.csv",
    "n4": "cohort n4 TABLE --modalities t1 --out OUT",
    "export": "export DATA/a/label.nii.gz --reference DATA/a/t1.nii.gz --out OUT",
    "msd": "cohort export msd TABLE --out OUT/dataset.json",
}
PLACES = {
    "predict": f"{PREDICT} --device cpu --out DATA/a/t1.nii.gz",
    "predict below a file": f"{PREDICT} --device cpu --out DATA/a/t1.nii.gz/out",
    "predict where nothing can be": f"{PREDICT} --device cpu --out /proc/out",
    "evaluate": "evaluate --predictions DATA/masks --cohort TABLE --out DATA/a/t1.nii.gz",
    "scan below a file": "cohort scan DATA --out DATA/a/t1.nii.gz/cohort.csv",
    "n4": "cohort n4 TABLE --modalities t1 --out DATA/a/t1.nii.gz",
    "export below a file": "export DATA/a/label.nii.gz --reference DATA/a/t1.nii.gz --out DATA/a/t1.nii.gz/x",
    "no such device": f"{PREDICT} --device cuda:99 --out OUT",
    "a device of no kind": f"{PREDICT} --device gpu --out OUT",
    "no weights": f"{PREDICT} --device cpu --set checkpoint=DATA/nowhere.pt --out OUT",
    "weights that are a folder": f"{PREDICT} --device cpu --set checkpoint=DATA --out OUT",
    "weights that are an image": f"{PREDICT} --device cpu --set checkpoint=DATA/a/t1.nii.gz --out OUT",
}


def trials(folder: Path, seed: int) -> list[Trial]:
    """Places and devices first, then disks that refuse the first file, or the third."""
    made: list[Trial] = [(title, partial(_fault, line, None, 0)) for title, line in PLACES.items()]
    for after in (0, 2):
        for words, number in ERRORS.items():
            made += [
                (f"{name}, {words} after {after}", partial(_fault, line, number, after))
                for name, line in COMMANDS.items()
            ]
    return made


def _fault(line: str, number: int | None, after: int, place: Path) -> str:
    data = place / "data"
    table = cohort(data, "a")
    (data / "masks" / "a").mkdir(parents=True)
    (data / "masks" / "a" / "mask.nii.gz").write_bytes((data / "a" / "label.nii.gz").read_bytes())
    names = {"BUNDLE": BUNDLE, "TABLE": table, "DATA": data, "OUT": place / "out"}
    for name, path in names.items():
        line = line.replace(name, str(path))
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    code: object = 0
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            if number is None:
                app(line.split(), standalone_mode=False)
            else:
                with refusing(number, after):
                    app(line.split(), standalone_mode=False)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        return f"a traceback: {type(error).__name__}: {error}"
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = said.getvalue()
    if "Traceback" in text:
        return f"a traceback in the log: {text[-200:]}"
    few = number is not None and code == 0  # wrote no more files than the disk took
    if not few and (not code or not text.strip()):
        return f"code {code}, said {text!r}"
    return ""
