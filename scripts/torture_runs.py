"""Kill, change, misdirect and starve runs, and count what they lose.

Four parts on tiny cases, each prints a line per trial that went wrong and a table at the end:

* ``--kills N``: SIGKILL at a random moment after the first file appears, over predict, export, scan, evaluate, train
  and release; then the command again. Nothing may be lost, half written or left over, and the end is that of a run that
  was never killed, byte by byte (times and durations in run.json and summary.csv apart). The commands run in forks of
  a process that has imported everything; one in twenty is a process of its own.
* ``--changes N``: one thing changes between two runs in one folder; the second computes again or refuses.
* ``--onto N``: ``--out`` onto data; hashes of all data before and after.
* ``--faults N``: full and read-only disks, missing permissions, files in place of folders, devices that are not there;
  each must end in one sentence.

    python scripts/torture_runs.py --kills 200 --changes 40 --onto 40 --faults 30
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

logger = logging.getLogger("torture")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # tiny cases: tests/support
sys.path.insert(0, str(Path(__file__).resolve().parent))

PARTS = ("kills", "changes", "onto", "faults")


def run_part(name: str, trials: Sequence[tuple[str, Callable[[Path], str]]], count: int, folder: Path) -> list[str]:
    """Run trials in turn, each in a folder of its own, until ``count`` are done; what went wrong, in words."""
    wrong = []
    for number in range(count):
        title, trial = trials[number % len(trials)]
        place = folder / f"{name}_{number:03d}"
        place.mkdir(parents=True)
        try:
            found = trial(place)
        except BaseException as error:  # a trial reports whatever happens
            found = f"{type(error).__name__}: {error}"
        if number % 20 == 19:
            print(f"{name}: {number + 1} of {count}, {len(wrong)} wrong", flush=True)
        if found:
            wrong.append(f"{title}: {found}")
            print(f"WRONG {name} {number}: {title}: {found}", flush=True)
    return wrong


def main() -> int:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in PARTS:
        parser.add_argument(f"--{part}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="trials whose title has this, such as train")
    arguments = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork takes no threads along
    import torture

    logging.getLogger().setLevel(logging.CRITICAL)
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            if count := getattr(arguments, part):
                start = time.perf_counter()
                trials = torture.trials(part, Path(folder), arguments.seed)
                chosen = [trial for trial in trials if arguments.only in trial[0]]
                wrong = run_part(part, chosen, count, Path(folder))
                rows.append((part, count, len(wrong), time.perf_counter() - start))
                failed += len(wrong)
    print(f"{'part':<10}{'trials':>8}{'wrong':>8}{'seconds':>10}")
    for part, count, wrong_count, seconds in rows:
        print(f"{part:<10}{count:>8}{wrong_count:>8}{seconds:>10.0f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
