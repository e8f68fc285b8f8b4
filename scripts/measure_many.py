"""Runs of many cases: what shards lose, whether memory grows, and what waits for the network.

    python scripts/measure_many.py shards          # 40 tiny cases, one process against two shards, one of them killed
    python scripts/measure_many.py ray             # the same as two tasks of Ray on this machine (pip install ray)
    python scripts/measure_many.py memory          # resident memory after 20, 100 and 200 tiny cases
    python scripts/measure_many.py jobs CASES.csv  # time of a run of the sarcoma bundle beside that of its inferer

The first three take the evaluator of the tests, whose network is known; the last one a cohort table.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.forking import fork
from support.synthetic import ThresholdCenter
from torture.common import cohort, differences, evaluator, results

from differseg_med import api
from differseg_med.inferers import SliceWindowInferer
from differseg_med.prediction.collecting import collect
from differseg_med.prediction.evaluator import CohortEvaluator
from differseg_med.runs.shards import Shard

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "sts_petctmr_segmentation"


def shards(folder: Path, count: int) -> None:
    """Kill the first of two shards while both run, take it up again, collect, and compare every file.

    Raises:
        SystemExit: if anything differs.
    """
    table = cohort(folder, [f"case_{number:02d}" for number in range(count)])
    evaluator(table, folder / "whole").run()
    out = folder / "out"
    first = fork(lambda: part(table, out, "1/2"))
    second = fork(lambda: part(table, out, "2/2"))
    while len(list(out.glob("shards/1_of_2/*/mask.nii.gz"))) < count // 8:
        time.sleep(0.01)
    os.kill(first, signal.SIGKILL)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in (first, second)]
    made = len(list(out.glob("shards/1_of_2/*/mask.nii.gz")))
    part(table, out, "1/2", resume=True)
    print(f"exit codes {ended}, {made} masks of shard 1/2 at its end")
    if ended != [-signal.SIGKILL, 0]:
        raise SystemExit("none was killed")
    compare(folder, out, count)


def compare(folder: Path, out: Path, count: int) -> None:
    """Collect the shards in ``out`` and compare every file with those of ``folder / "whole"``.

    Raises:
        SystemExit: if anything differs.
    """
    rows = collect(out)
    found = {name: text for name, text in results(out).items() if not name.startswith("earlier_runs")}
    other = differences(results(folder / "whole"), found)
    done = sum(row["status"] == "done" for row in rows)
    masks = sum(name.endswith("mask.nii.gz") for name in found)
    print(f"{done} of {count} done, {masks} masks; files that differ: {other}")
    if other or done != count:
        raise SystemExit("not the same")


def ray_tasks(folder: Path, count: int) -> None:
    """Two shards as tasks of Ray; kill the worker of the first with -9, which Ray starts again; compare every file."""
    os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}  # workers take them over
    ray: Any = import_module("ray")
    table = cohort(folder, [f"case_{number:02d}" for number in range(count)])
    evaluator(table, folder / "whole").run()
    out, starts = folder / "out", folder / "starts"
    starts.mkdir()

    def task(text: str) -> int:
        (starts / f"{text[0]}_{os.getpid()}").touch()
        part(table, out, text, resume=True)
        return os.getpid()

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        waiting = [ray.remote(max_retries=2)(task).remote(text) for text in ("1/2", "2/2")]
        while len(list(out.glob("shards/1_of_2/*/mask.nii.gz"))) < count // 8:
            time.sleep(0.05)
        killed = int(next(starts.glob("1_*")).name[2:])
        os.kill(killed, signal.SIGKILL)
        made = len(list(out.glob("shards/1_of_2/*/mask.nii.gz")))
        ended = ray.get(waiting)
    finally:
        ray.shutdown()
    again = sorted(path.name[0] for path in starts.iterdir())
    print(
        f"Ray {ray.__version__}: worker of shard 1/2 killed with -9 after {made} masks; shards started: {again};",
        end=" ",
    )
    print(f"another worker ended it: {killed not in ended}")
    compare(folder, out, count)


def part(table: Path, out: Path, text: str, **settings: Any) -> None:
    """One shard."""
    evaluator(table, Shard.parse(text).folder(out), shard=text, **settings).run()


class Watched(ThresholdCenter):
    """The known network, which prints the resident memory at some of its cases."""

    def forward(self, x: Any) -> Any:
        """Compute; every case is one call."""
        found = super().forward(x)
        if len(self.calls) in (20, 100, 200):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"case {len(self.calls)}: {pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f} MB", flush=True)
        return found


def memory(folder: Path) -> None:
    """Predict 200 tiny cases in one process."""
    table = cohort(folder, [f"case_{number:03d}" for number in range(200)])
    evaluator(table, folder / "out", network=Watched(threshold=0.7)).run()


def jobs(folder: Path, table: Path) -> None:
    """A run with ``--jobs`` 1 and 2: its time from the first case to the last page, by that of its inferer."""
    spent: dict[str, float] = {}
    for kind, name in ((SliceWindowInferer, "__call__"), (CohortEvaluator, "run")):
        setattr(kind, name, _timed(getattr(kind, name), kind.__name__, spent))
    for count in (1, 2):
        spent.clear()
        api.predict(BUNDLE, table, folder / f"jobs_{count}", jobs=count)
        network, whole = spent["SliceWindowInferer"], spent["CohortEvaluator"]
        print(f"--jobs {count}: {whole:.1f} s, inferer {network:.1f} s, ratio {whole / network:.2f}", flush=True)


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    return call


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["shards", "ray", "memory", "jobs"])
    parser.add_argument("cohort", type=Path, nargs="?", help="of jobs")
    parser.add_argument("--cases", type=int, default=40, help="of shards and ray")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if chosen.what == "shards":
            shards(Path(temporary), chosen.cases)
        elif chosen.what == "ray":
            ray_tasks(Path(temporary), chosen.cases)
        elif chosen.what == "memory":
            memory(Path(temporary))
        else:
            jobs(Path(temporary), chosen.cohort)


if __name__ == "__main__":
    main()
