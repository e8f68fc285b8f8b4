"""nnU-Net v2 in 2-D on folds of the sarcoma patients, trained for a given CPU time.

    python scripts/peers_nnunet.py DATA/sts DATA/sts_2mm --out RUNS --seconds 700 --folds 0,1
    python scripts/crossvalidate_sts.py DATA/sts DATA/sts_2mm --out RUNS --only tables
    python scripts/ablate_sts.py RUNS_quick RUNS --common

Needs `pip install nnunetv2`. Plans, preprocessing, sampling, augmentation, network, loss, optimizer and mirrored
prediction are nnU-Net's own; it gets the patients on the bundle's grid of 2 mm. Its learning rate falls with the CPU
time as it falls with epochs otherwise, and no time is spent on validation. A modality that is withheld is zeros, as
nnU-Net has no notion of one. RUNS looks like a folder of `crossvalidate_sts.py`; finished steps are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from crossvalidate_sts import SUBSETS, configuration, save
from prepare_sts_cohort import FOLDS, MODALITIES, NUM_FOLDS, find_cases, read_folds
from torch import Tensor

from differseg_med.atomic import replacing

DATASET = "Dataset001_STS"
CONFIGURATION = "2d"
MEMORY_GB = 0.25
"""For nnU-Net's planner, which chooses the batch by it: 16 windows of 80 x 80. For its usual 8 GB it takes 188, with
which the time of these trainings is some 50 steps."""


def point_to(folder: Path) -> None:
    """Tell nnU-Net its three folders: before it is imported."""
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{part}"] = str(folder / part)
    os.environ.update(nnUNet_compile="f", nnUNet_n_proc_DA="1")


def prepare(folder: Path, samples: dict[str, dict[str, Any]]) -> None:
    """Write the patients as nnU-Net wants them, then let it plan and preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    raw = folder / "raw" / DATASET
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    for name, sample in samples.items():
        affine = sample["image"].affine.numpy()
        for n, channel in enumerate(sample["image"].numpy()):
            nibabel.save(nibabel.Nifti1Image(channel, affine), raw / "imagesTr" / f"{name}_{n:04d}.nii.gz")
        label = (sample["label"][0].numpy() > 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(label, affine), raw / "labelsTr" / f"{name}.nii.gz")
    described = {
        "channel_names": dict(enumerate(MODALITIES)),
        "labels": {"background": 0, "tumour": 1},
        "numTraining": len(samples),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIO",
    }
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    extract_fingerprints([1], num_processes=1)
    plan_experiments([1], gpu_memory_target_in_gb=MEMORY_GB)
    preprocess([1], configurations=(CONFIGURATION,), num_processes=(1,))
    of = read_folds(FOLDS)
    splits = [
        {part: [name for name in samples if (of[name] == str(fold)) == (part == "val")] for part in ("train", "val")}
        for fold in range(NUM_FOLDS)
    ]
    (folder / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")


def make_trainer(folder: Path, fold: int, seconds: float) -> Any:
    """nnU-Net's own trainer of a fold, stopped by the clock of this process."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class TimedTrainer(nnUNetTrainer):  # type: ignore[misc]
        """Trains for so many CPU seconds."""

        steps = 0

        def run_training(self) -> None:
            self.on_train_start()
            self.network.train()
            started = time.process_time()
            while (passed := (time.process_time() - started) / seconds) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - passed) ** 0.9
                loss = float(self.train_step(next(self.dataloader_train))["loss"])
                self.steps += 1
                if self.steps % 10 == 0:
                    print(f"fold {fold}: {self.steps} steps, {passed:.0%} of the time, loss {loss:.3f}", flush=True)

    os.environ.update(nnUNet_n_proc_DA="0")  # samples are made in this process, so that its clock counts them
    base = folder / "preprocessed" / DATASET
    plans, described = (json.loads((base / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = TimedTrainer(plans | {"continue_training": False}, CONFIGURATION, fold, described, torch.device("cpu"))
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    trainer.initialize()
    return trainer


def train(trainer: Any, target: Path) -> None:
    """Train, or take the weights that are there; keeps weights, steps and CPU seconds in ``target``."""
    weights = target / "model.pt"
    if weights.is_file():
        trainer.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return
    started = time.process_time()
    trainer.run_training()
    target.mkdir(parents=True, exist_ok=True)
    report = {"cpu_seconds": round(time.process_time() - started), "steps": trainer.steps}
    report |= {"batch": trainer.batch_size, "patch": list(trainer.configuration_manager.patch_size)}
    (target / "training.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    with replacing(weights) as temporary:
        torch.save(trainer.network.state_dict(), temporary)


def make_predictor(trainer: Any) -> Callable[[Tensor, np.ndarray], Tensor]:
    """Probability ``(R, A, S)`` of ``(M, R, A, S)`` and a spacing in mm by nnU-Net's own predictor, mirrored."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )

    def predict(volume: Tensor, spacing: np.ndarray) -> Tensor:
        image = np.ascontiguousarray(volume.numpy().transpose(0, 3, 2, 1))  # as NibabelIO reads: (C, S, A, R)
        properties = {"spacing": [float(mm) for mm in spacing[::-1]]}
        _, probability = predictor.predict_single_npy_array(image, properties, None, None, True)
        return torch.from_numpy(np.ascontiguousarray(probability[1].transpose(2, 1, 0)))

    return predict


def predict_fold(trainer: Any, samples: dict[str, dict[str, Any]], fold: int, out: Path, subsets: list[str]) -> None:
    """Write ``predictions/CASE.pt`` of the fold's patients, with all modalities and with each withheld.

    What is not in ``subsets`` is NaN, which the tables call failed.
    """
    predict = make_predictor(trainer)
    of = read_folds(FOLDS)
    for name, sample in samples.items():
        path = out / "predictions" / f"{name}.pt"
        if of[name] != str(fold) or path.is_file():
            continue
        image = sample["image"]
        volume, spacing = image.as_tensor(), image.pixdim.numpy()
        started = time.process_time()
        found = [
            predict(volume * torch.tensor(given).view(-1, 1, 1, 1), spacing)
            if subset in subsets
            else torch.full(volume.shape[1:], torch.nan)
            for subset, given in SUBSETS.items()
        ]
        save(sample, torch.stack(found)[None], path)
        spent = (time.process_time() - started) / len(subsets)
        print(f"predicted {name} with {len(subsets)} sets of modalities, {spent:.1f} CPU s each", flush=True)


def main() -> None:
    """Parse arguments, do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=700, help="CPU time of a training")
    parser.add_argument("--folds", default="0,1")
    parser.add_argument("--subsets", default=",".join(SUBSETS), help="to predict, for example all")
    parser.add_argument("--prepared", type=Path, help="folder of nnU-Net's data, RUNS/nnunet where not given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = (arguments.prepared or arguments.out / "nnunet").resolve()
    point_to(folder)
    preprocess = configuration([], {}).get_parsed_content("preprocessing")
    samples = {case.case_id: preprocess(case.as_item()) for case in find_cases(arguments.folders)}
    if not (folder / "preprocessed" / DATASET / "splits_final.json").is_file():
        prepare(folder, samples)
    for fold in map(int, arguments.folds.split(",")):
        random.seed(fold)
        np.random.seed(fold)
        torch.manual_seed(fold)
        trainer = make_trainer(folder, fold, arguments.seconds)
        train(trainer, arguments.out / f"fold{fold}")
        predict_fold(trainer, samples, fold, arguments.out, arguments.subsets.split(","))


if __name__ == "__main__":
    main()
