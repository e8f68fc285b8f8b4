"""Train the planned bundle and the hand-made one for equally many steps, and print both validation Dices.

    python scripts/compare_plan.py DATA/sts DATA/sts_2mm --out OUT --steps 100 --time 20min

Both train on the same patients and are validated on the same seven, on the network's grid. The plan sees the training
patients only. A training that is there already is resumed, so the command can be interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from differseg_med import api
from differseg_med.cohort.table import write_cohort

sys.path.insert(0, str(Path(__file__).parent))
from prepare_sts_cohort import MODALITIES, find_cases

HAND_MADE = Path(__file__).parents[1] / "bundles" / "sts_petctmr_segmentation"
KINDS = {"t1": "mr", "ct": "ct", "pet": "pet"}


def main() -> None:
    """Parse arguments, plan, train twice and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--time", default="20min", help="what the plan is made for")
    arguments = parser.parse_args()
    table, planned = arguments.out / "cohort.csv", arguments.out / "planned_sts"
    write_cohort(table, MODALITIES, find_cases(arguments.folders), KINDS)
    if not planned.exists():
        for line in api.plan(table, planned, time=arguments.time, target="neoplasm").notes:
            print(line)
    settings = {"max_epochs": 1, "iterations": arguments.steps, "val_interval": 1}
    dices = {}
    for name, bundle in (("planned", planned), ("hand-made", HAND_MADE)):
        start = time.process_time()
        done = api.train(bundle, table, arguments.out / name.replace("-", "_"), settings=settings)
        dices[name] = done.best_dice or 0.0
        spent = time.process_time() - start
        print(f"{name}: validation Dice {dices[name]:.3f} after {arguments.steps} steps, {spent:.0f} CPU s", flush=True)
    print(f"planned - hand-made: {dices['planned'] - dices['hand-made']:+.3f}")


if __name__ == "__main__":
    main()
