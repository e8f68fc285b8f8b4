"""Five-fold cross-validation of a training recipe on the 40 sarcoma patients, with each modality withheld in turn.

    python scripts/crossvalidate_sts.py DATA/sts DATA/sts_2mm --out RUNS --recipe configs/sts_quick.yaml

Each fold is trained on the others, its patients are predicted by a network that never saw them, and threshold and
component rule for a fold are chosen on the predictions of the other folds. Every finished step is kept: the same
command resumes after an interruption, and `--folds 0,1` does a part. In RUNS: `fold0/` and so on with the training,
`predictions/` with probabilities, `cases.csv` with a row per patient and subset, `summary.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from prepare_sts_cohort import FOLDS, MODALITIES, NUM_FOLDS, find_cases, read_folds, split_by_fold
from torch import Tensor, nn

from differseg_med.atomic import replacing
from differseg_med.case import Case
from differseg_med.cohort.table import write_cohort
from differseg_med.networks import DifferSeg
from differseg_med.networks.inference import fuse_for_inference
from differseg_med.training.crossvalidation import PREDICTIONS, measure_folds, summary_text, write_tables
from differseg_med.training.rules import Rule
from differseg_med.transforms.slices import from_plane, gather_slabs, to_plane

BUNDLE = Path(__file__).parents[1] / "bundles" / "sts_petctmr_segmentation"
SUBSETS = {"all": (1, 1, 1), "without t1": (0, 1, 1), "without ct": (1, 0, 1), "without pet": (1, 1, 0)}
OWN = Rule(0.35, largest_only=True)
"""The bundle's own rule."""


def train(fold: int, cases: list[Case], arguments: argparse.Namespace) -> None:
    """Train one fold with the package's own command, and keep its averaged weights and its CPU seconds."""
    folder = arguments.out / f"fold{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "cohort.csv"
    write_cohort(table, MODALITIES, split_by_fold(cases, read_folds(FOLDS), fold))
    command = [sys.executable, "-m", "differseg_med.cli", "train", "--bundle", str(BUNDLE), "--cohort", str(table)]
    command += ["--out", str(folder), "--set", f"cache_dir={arguments.out / 'cache'}", "--set", f"seed={fold}"]
    command += ["--set", "validate::evaluator=null"]  # nothing may be chosen on the fold's own patients
    for recipe in arguments.recipe:
        command += ["--preset", str(recipe)]
    for setting in arguments.set:
        command += ["--set", setting]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    state = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    with replacing(folder / "model.pt") as temporary:
        torch.save(state["average"], temporary)
    report = {"cpu_seconds": round(seconds), "steps": state["iteration"], "command": command[1:]}
    (folder / "training.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def configuration(recipes: Sequence[str | Path], settings: dict[str, Any]) -> ConfigParser:
    """The bundle's configuration with recipes and settings over it."""
    parser = ConfigParser()
    files = [BUNDLE / "configs" / "inference.yaml", BUNDLE / "configs" / "train.yaml", *recipes]
    parser.read_config([str(file) for file in files])
    parser.update(settings)
    return parser


@torch.no_grad()
def predict_subsets(network: DifferSeg, volume: Tensor, config: dict[str, Any]) -> Tensor:
    """Probabilities ``(planes, subsets, R, A, S)`` of a volume ``(M, R, A, S)``; encoders run once for all subsets.

    Each slice is seen whole, in zeros up to a multiple of 32 and to the window of the training.
    """
    allowed = torch.tensor(list(SUBSETS.values()), dtype=torch.bool)
    found = []
    for plane in config["planes"]:
        slices = to_plane(volume, plane)
        count, h, w = slices.shape[1:]
        size = [max(-(-n // 32) * 32, roi) for n, roi in zip((h, w), config["roi_size"])]
        top, left = (size[0] - h) // 2, (size[1] - w) // 2
        out = torch.zeros(len(allowed), count, h, w)
        for centers in torch.arange(count).split(16):
            slabs = gather_slabs(slices, centers, config["num_slices"], config["slice_step"])
            x = slabs.new_zeros(len(centers), slabs.shape[1], *size)
            x[:, :, top : top + h, left : left + w] = slabs
            streams, present = network.split_streams(x)
            features = network.reduce_streams(streams, present)
            for i, subset in enumerate(allowed):
                given = present & subset
                given = torch.where(given.any(dim=1, keepdim=True), given, present)
                decoded = network.decode(network.fuse_levels(features, given)[::-1])
                logits = network.heads[0](decoded, (size[0], size[1]))
                out[i, centers] = logits[:, 0, top : top + h, left : left + w].sigmoid()
        found.append(from_plane(out, plane))
    return torch.stack(found)


def save(sample: dict[str, Any], probabilities: Tensor, path: Path) -> None:
    """Keep probabilities ``(planes, subsets, R, A, S)`` of a preprocessed case as `measure_folds` reads them."""
    image = sample["image"]
    content = {
        "probabilities": probabilities.half(),
        "label": sample["label"].as_tensor().to(torch.uint8),
        "affine": image.affine.clone(),
        "original_affine": torch.as_tensor(np.asarray(image.meta["original_affine"])),
        "original_shape": [int(n) for n in image.meta["spatial_shape"]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(content, temporary)


def predict(fold: int, cases: list[Case], arguments: argparse.Namespace) -> None:
    """Predict the patients of a fold, with all modalities and with each withheld."""
    settings = {name: yaml.safe_load(value) for name, value in (s.split("=", 1) for s in arguments.set)}
    parser = configuration(arguments.recipe, settings)
    config = {name: parser.get(name) for name in ("planes", "roi_size", "num_slices", "slice_step")}
    network: nn.Module = parser.get_parsed_content("network_def")
    state = torch.load(arguments.out / f"fold{fold}" / "model.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    fused = fuse_for_inference(network.eval())
    preprocess = parser.get_parsed_content("preprocessing")
    for case in split_by_fold(cases, read_folds(FOLDS), fold):
        path = arguments.out / "predictions" / f"{case.case_id}.pt"
        if case.split != "validation" or path.is_file():
            continue
        sample = preprocess(case.as_item())
        image = sample["image"]
        save(sample, predict_subsets(fused, image.as_tensor(), config), path)
        print(f"predicted {case.case_id}", flush=True)


def tabulate(cases: list[Case], arguments: argparse.Namespace) -> None:
    """Choose rules on the other folds, measure, and write ``cases.csv``, ``summary.md`` and ``rule.json``."""
    folder = arguments.out / PREDICTIONS
    there = [case for case in cases if (folder / f"{case.case_id}.pt").is_file()]
    folds = read_folds(FOLDS)
    found = measure_folds([replace(case, fold=folds[case.case_id]) for case in there], folder, MODALITIES, OWN)
    notices = []
    if unseen := [row for row in found.rows if row["fold"] not in arguments.chosen_on.split(",")]:
        text = f"Without fold {arguments.chosen_on}, on which the recipe was chosen:"
        notices = [f"{text}\n\n{summary_text(unseen)}"]
    print(write_tables(found, MODALITIES, arguments.out, OWN, notices))


def main() -> None:
    """Parse arguments, do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--recipe", action="append", default=[], type=Path, help="configuration over the bundle's")
    parser.add_argument("--set", action="append", default=[], help="any other entry of it, name=value")
    parser.add_argument("--folds", default=",".join(map(str, range(NUM_FOLDS))))
    parser.add_argument("--only", choices=("train", "predict", "tables"), help="this step only")
    parser.add_argument(
        "--chosen-on", default="0", help="folds that the recipe was chosen on, told apart in the tables"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = sorted(find_cases(arguments.folders), key=lambda case: case.case_id)
    folds = [int(fold) for fold in arguments.folds.split(",")]
    for fold in folds:
        if arguments.only in (None, "train") and not (arguments.out / f"fold{fold}" / "model.pt").is_file():
            train(fold, cases, arguments)
        if arguments.only in (None, "predict"):
            predict(fold, cases, arguments)
    if arguments.only in (None, "tables"):
        tabulate(cases, arguments)


if __name__ == "__main__":
    main()
