"""Two processes of torchrun train one network on a processor; one is killed, the same command resumes.

    python scripts/try_torchrun.py

On the tiny cohort of the tests, with ``configs/multi_gpu_train.yaml`` and gloo. Prints what each run ended with and
whether the resumed weights are those of a training that nobody interrupted. ``tests/training/test_processes.py`` does
the same without torchrun, which imports everything three times for each start.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
SETTINGS = {
    "network_def::encoder": "test_resnet",
    "network_def::decoder_channels": "[8,8,8,8]",
    "network_def::encoder_weights": "null",
    "roi_size": "[32,32]",
    "planes": "[axial]",
    "pixdim": "null",
    "batch_size": "2",
    "max_epochs": "3",
    "iterations": "20",
    "val_interval": "1",
}


def command(table: Path, out: Path) -> list[str]:
    """The training with the overlay, as docs/training.md shows it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    training = ["-m", "differseg_med.cli", "train", "--bundle", str(BUNDLE), "--cohort", str(table), "--out", str(out)]
    given = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    return [*launcher, *training, "--preset", str(ROOT / "configs" / "multi_gpu_train.yaml"), *given]


def run(table: Path, out: Path, *, kill: bool = False) -> None:
    """Train; with ``kill`` SIGKILL the second process as soon as the first epoch is written."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    start, told = time.perf_counter(), out.with_suffix(".txt")
    with told.open("w") as file:
        process = subprocess.Popen(command(table, out), stdout=file, stderr=file, env=environment)
        while kill and process.poll() is None:
            if (out / "log.csv").is_file():
                os.kill(rank_one(process.pid), signal.SIGKILL)
                break
            time.sleep(0.1)
        code = process.wait()
    seconds = time.perf_counter() - start
    lines = told.read_text().splitlines()
    ours = [line for line in lines if any(word in line for word in ("processes", "resumed", "exitcode", "Signal"))]
    title = "killed" if kill else "trained"
    epochs = len((out / "log.csv").read_text().splitlines()) - 1
    print(f"{title}: exit code {code}, {epochs} epochs in log.csv, {seconds:.0f} s", flush=True)
    print("".join(f"    {line.strip()}\n" for line in ours), end="", flush=True)


def rank_one(launcher: int) -> int:
    """The process that torchrun has given rank 1."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"\0RANK=1\0" in b"\0" + (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:  # it has ended meanwhile
            continue
    raise SystemExit("no process of torchrun has rank 1")


def main() -> int:
    """Train, kill and resume; 0 if the weights are equal."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import torch
    from support.synthetic import write_split_cohort

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = write_split_cohort(folder / "cohort")
        whole, parts = folder / "whole", folder / "parts"
        run(table, whole)
        run(table, parts, kill=True)
        run(table, parts)
        states = [torch.load(out / "last.pt", weights_only=True)["network"] for out in (whole, parts)]
        equal = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    print(f"weights resumed and uninterrupted: {'equal to the last bit' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
