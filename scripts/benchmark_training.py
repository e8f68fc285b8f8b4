"""Samples a second of a training on a processor, and the Dice that each way of training reaches after equal samples.

    python scripts/prepare_sts_cohort.py DATA/sts DATA/sts_2mm --out COHORT.csv
    python scripts/benchmark_training.py --cohort COHORT.csv --out OUT --steps 80 --batch 8

Every variant is a training of the sarcoma bundle by the recipe of its weights (``configs/sts_gpu.yaml``), with one
thing changed. They take turns, a few steps at a time, so that whatever else the machine does falls on all of them. Time
is that of the process, on one thread, for samples and steps without validation; the cases are prepared before.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from differseg_med.bundle import SmallerWindows
from differseg_med.bundles.workflows import BundleRun

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
STEPS_IN_TURN = 5
FROZEN = {"network_def::freeze_stages": 3}
SMALL = {"windows": [64, 64]}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "stem and three stages frozen": FROZEN,
    "small windows first": SMALL,
    "both": {**FROZEN, **SMALL},
    "whole encoder frozen": {"network_def::freeze_encoder": True},
    "two micro-batches": {"train::trainer::accumulate": 2},
    "bfloat16": {"amp": True},
    "compiled": {"train::trainer::compile": True},
}


class Turns:
    """One training, a few steps at a time.

    Args:
        arguments: of the command line.
        variant: its name.
    """

    def __init__(self, arguments: argparse.Namespace, variant: str) -> None:
        changes = dict(VARIANTS[variant])
        size, self.out = changes.pop("windows", None), arguments.out / variant.replace(" ", "_")
        steps, cache = arguments.steps, str(arguments.out / "cache")
        settings = {
            "max_epochs": steps // STEPS_IN_TURN,
            "iterations": STEPS_IN_TURN,
            "val_interval": steps,
            "batch_size": arguments.batch,
            "train::trainer::augmentation": "workers",
            "train::trainer::resume": False,
            "train::trainer::average_decay": 0.9,
            "train::dataset::cache_dir": cache,
            "validate::dataset::cache_dir": cache,
            "planes": ["axial", "coronal", "sagittal"],
            "device": "cpu",
            **changes,
        }
        recipe = str(ROOT / "configs" / "sts_gpu.yaml")
        run = BundleRun(BUNDLE, ["inference", "train", recipe], arguments.cohort, self.out, settings=settings)
        workflow = run.open()
        workflow.initialize()
        self.trainer: SupervisedTrainer = workflow.parser.get_parsed_content("train::trainer")
        if size:
            windows = SmallerWindows(size, round(arguments.share * steps))
            windows.watch(self.trainer)
            self.trainer.prepare_batch = windows
        self.out.mkdir(parents=True, exist_ok=True)
        self.seconds = self._since = 0.0
        self.trainer.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.trainer.interrupt)

    def _begin(self) -> None:
        self._since = time.process_time()

    def _end(self) -> None:
        self.seconds += time.process_time() - self._since

    def go_on(self) -> None:
        """The next few steps; the last ones end with a validation."""
        SupervisedTrainer.run(self.trainer)  # without lock and manifest, which are for whole runs

    def row(self) -> dict[str, str]:
        """Loss and validation Dice of the last epoch."""
        with (self.out / "log.csv").open(newline="") as file:
            return list(csv.DictReader(file))[-1]


def main() -> None:
    """Train in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.8, help="of the steps with small windows")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trainings = {name: Turns(arguments, name) for name in arguments.variants}
    for turn in range(arguments.steps // STEPS_IN_TURN):
        for training in trainings.values():
            training.go_on()
        told = {name: round(training.seconds, 1) for name, training in trainings.items()}
        print(f"step {(turn + 1) * STEPS_IN_TURN}: CPU s {told}", flush=True)
    samples, first = arguments.steps * arguments.batch, next(iter(trainings.values()))
    print(f"| {samples} samples each | CPU s | samples/s | against the first | loss | validation Dice |")
    print("|---|---|---|---|---|---|")
    for name, training in trainings.items():
        rate, ratio, row = samples / training.seconds, first.seconds / training.seconds, training.row()
        scores = f"{float(row['loss']):.2f} | {float(row['val_dice']):.3f}"
        print(f"| {name} | {training.seconds:.0f} | {rate:.2f} | {ratio:.2f} | {scores} |")


if __name__ == "__main__":
    main()
