"""SIGKILL in the middle of commands, and the command again."""

from __future__ import annotations

import gzip
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from support.forking import fork
from support.synthetic import read_rows, write_table

from differseg_med.cli import app
from torture import Trial
from torture.common import BUNDLE, cohort, differences, results

SMALL = ["roi_size=[32,32]", "planes=[axial]", "pixdim=null"]
TRAINING = ["max_epochs=3", "iterations=1", "batch_size=2", "val_interval=1", "network_def::encoder_weights=null"]
SECONDS = 120
FRESH = 0.05
"""Share of the killed commands that are processes of their own."""

_STARTED: list[subprocess.Popen[bytes]] = []
"""Kept, as Python would wait for those that it forgets."""

ERRORS = Path(tempfile.gettempdir()) / f"torture_{os.getpid()}.log"
"""Where the tracebacks of commands go that end unforeseen."""


def trials(folder: Path, seed: int) -> list[Trial]:
    """One trial per command; a reference of each is made once, without a kill."""
    place = folder / "kills_data"
    table = cohort(place, "abc")
    mixed = cohort(folder / "kills_labelled", "abc", split="train")
    rows = [{**row, "split": "validation" if row["case_id"] == "c" else "train"} for row in read_rows(mixed).values()]
    write_table(mixed, rows)
    weights = BUNDLE / "models" / "model.pt"
    settings = [part for setting in SMALL for part in ("--set", setting)]
    predict = ["predict", "--bundle", str(BUNDLE), "--cohort", str(table), "--device", "cpu", *settings]
    label, image = place / "a" / "label.nii.gz", place / "a" / "t1.nii.gz"
    commands: dict[str, tuple[list[str], list[str]]] = {
        "predict": ([*predict, "--formats", "seg.nrrd,bids,png"], ["--resume"]),
        "train": (
            ["train", "--bundle", str(BUNDLE), "--cohort", str(mixed), "--device", "cpu", *settings]
            + [part for setting in TRAINING for part in ("--set", setting)],
            [],
        ),
        "evaluate": (["evaluate", "--predictions", str(folder / "kills_masks"), "--cohort", str(table)], []),
        "export": (["export", str(label), "--reference", str(image), "--formats", "nifti,seg.nrrd,png,scene,bids"], []),
        "scan": (["cohort", "scan", str(place)], []),
        "release": (["release", str(weights)], []),
    }
    _finish([*commands["predict"][0], "--out", str(folder / "kills_masks")])
    numbers = random.Random(seed)
    made = []
    for name, (command, again) in commands.items():
        reference = folder / f"kills_of_{name}" / "out"  # as deep as those of the trials: tables hold relative paths
        start = time.perf_counter()
        _finish(_to(command, name, reference))
        made.append((name, partial(_kill, name, command, again, reference, time.perf_counter() - start, numbers)))
    return made


def _to(command: list[str], name: str, out: Path) -> list[str]:
    """The command with its output."""
    if name == "release":
        return [*command, str(out / "model.pt")]
    return [*command, "--out", str(out / "cohort.csv" if name == "scan" else out)]


def _command(arguments: list[str]) -> None:
    if arguments[0] == "release":
        Path(arguments[-1]).parent.mkdir(parents=True, exist_ok=True)
        sys.argv = arguments
        runpy.run_path(str(Path(__file__).parents[1] / "release_weights.py"), run_name="__main__")
    else:
        sys.argv = ["differseg-med", *arguments]
        app(arguments, standalone_mode=False)


def _fork(job: Callable[[], None]) -> int:
    """A process of its own that has imported everything already, and is heard by `ERRORS` alone."""

    def quiet() -> None:
        try:
            job()
        except SystemExit:
            raise
        except BaseException:
            with ERRORS.open("a") as file:
                traceback.print_exc(file=file)
            raise

    with Path(os.devnull).open("w") as nothing:
        return fork(quiet, nothing.fileno(), nothing.fileno())


def _finish(arguments: list[str]) -> None:
    _, status = os.waitpid(_fork(lambda: _command(arguments)), 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(arguments[:2])} ended with {os.waitstatus_to_exitcode(status)}")


def _kill(
    name: str, command: list[str], again: list[str], reference: Path, takes: float, numbers: random.Random, place: Path
) -> str:
    out = place / "out"
    arguments = _to(command, name, out)
    child = _fresh(arguments) if name != "release" and numbers.random() < FRESH else _fork(lambda: _command(arguments))
    started = time.perf_counter()
    while not out.exists() and time.perf_counter() - started < SECONDS and not _ended(child):
        time.sleep(0.002)
    time.sleep(numbers.random() * max(takes - (time.perf_counter() - started), 0.05))
    if not _ended(child):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if half := [path.name for path in out.rglob("*") if path.is_file() and ".tmp" not in path.name and _half(path)]:
        return f"half written: {half}"
    _finish(_to([*command, *again], name, out))
    wrong = differences(results(out), results(reference))
    left = [path.name for path in out.rglob(".*") if path.is_file()]
    shutil.rmtree(out)
    return "; ".join(filter(None, [f"differs: {wrong}" if wrong else "", f"left over: {left}" if left else ""]))


def _half(path: Path) -> bool:
    """Whether a file with its final name is not whole."""
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            json.loads(content)
        elif path.name.endswith(".gz"):
            gzip.decompress(content)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".png":
            return not content.endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".html":
            return not content.rstrip().endswith(b"</html>")
        return not content
    except Exception:  # whatever a reader makes of half a file
        return True


def _fresh(arguments: list[str]) -> int:
    """A process of its own that imports everything itself."""
    child = subprocess.Popen(
        [sys.executable, "-m", "differseg_med.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _STARTED.append(child)
    return child.pid


def _ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
