"""How long reading a cohort's volumes takes, against another checkout: one run, files in turn, one ratio.

    python scripts/benchmark_reading.py ../shared/data/sts --against ../main --files 20

Each checkout reads in a process of its own; both read a file right after one another, so that what else the machine
does falls on both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

READER = """
import sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from differseg_med.io.volumes import load_volume
for line in sys.stdin:
    start = time.process_time()
    load_volume(line.strip())
    print(time.process_time() - start, flush=True)
"""


class Reader:
    """A process that reads files with one checkout and tells the processor seconds of each."""

    def __init__(self, checkout: Path) -> None:
        command = [sys.executable, "-c", READER, str(checkout.resolve())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def seconds(self, path: Path) -> float:
        """Read a file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="the other checkout")
    parser.add_argument("--files", type=int, default=0, help="read so many, spread over the cohort; default: all")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(path.resolve() for path in arguments.folder.rglob("*.nii.gz"))
    files = files[:: max(1, len(files) // arguments.files)] if arguments.files else files
    ours, theirs = Reader(Path(__file__).parents[1]), Reader(arguments.against)
    for reader in (ours, theirs):
        reader.seconds(files[0])
    own, other = 0.0, 0.0
    for path in files:
        times = [(ours.seconds(path), theirs.seconds(path)) for _ in range(arguments.repeats)]
        own, other = own + median(a for a, _ in times), other + median(b for _, b in times)
    print(f"{len(files)} files: {own:.2f} s here, {other:.2f} s there, ratio {own / other:.2f}")


if __name__ == "__main__":
    main()
