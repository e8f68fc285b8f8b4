"""Time and memory of the summary, a resumed run and the report of many cases, without images and networks.

    python scripts/measure_reports.py --cases 10000
    python scripts/measure_reports.py --cases 2000 --part CASE/report.json

With ``--part`` every case has that picture and those volumes. Prints seconds, peak memory and sizes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from differseg_med.prediction.summary import COLUMNS, Summary, read_finished
from differseg_med.reports.run import write_part, write_results_page


def row_of(number: int) -> dict[str, object]:
    """A row as runs make them; every seventh case has flags, every 50th has failed."""
    row: dict[str, object] = dict.fromkeys(COLUMNS, "") | {"case_id": f"case_{number:05d}", "status": "done"}
    row |= {"modalities": "t1+ct+pet", "seconds": "6.10", "volume_ml": f"{number % 371}.125", "reference": "t1"}
    if number % 7 == 0:
        row["flags"] = "the mask touches the border of the field of view: superior (0.4 cm2)"
    if number % 50 == 0:
        row |= {"status": "failed", "reason": f"case case_{number:05d}, file x/t1.nii.gz: cut short. Copy it again."}
    return row


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--part", type=Path, help="a report.json of a run")
    parser.add_argument("--out", type=Path, help="folder to keep; default: a temporary one")
    chosen = parser.parse_args()
    part = json.loads(chosen.part.read_text(encoding="utf-8")) if chosen.part else None
    print(f"imports: {peak_mb():.0f} MB")
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.out or Path(temporary)
        rows = [row_of(number) for number in range(chosen.cases)]
        for row in rows:
            case = folder / str(row["case_id"])
            case.mkdir(parents=True)
            (case / "mask.nii.gz").touch()
            if part:
                write_part(case, part)
        summary = Summary(folder)
        told("summary, appended case by case", lambda: [summary.add(row) for row in rows])
        told("summary, put in order", summary.write)
        told("resume: rows of finished cases", lambda: read_finished(folder))
        told("report.html", lambda: write_results_page(summary.all_rows, folder))
        for name in ("summary.csv", "report.html"):
            print(f"{name}: {(folder / name).stat().st_size / 1e6:.1f} MB")
        beside = sum(path.stat().st_size for path in folder.glob("*/report.[jw]*") if path.suffix != ".json")
        print(f"beside the page: {beside / 1e6:.1f} MB")
    return 0


def told(what: str, job: Callable[[], object]) -> None:
    """Do a job, and print how long it took and the highest memory so far."""
    start, used = time.perf_counter(), time.process_time()
    job()
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    print(f"{what}: {seconds:.1f} s, of which {cpu:.1f} s of this process, {peak_mb():.0f} MB")


def peak_mb() -> float:
    """Highest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
