"""The trainings of `crossvalidate_sts.py` on a machine that has a GPU and not the images: many networks at a time.

    python scripts/crossvalidate_packed.py pack DATA/sts DATA/sts_2mm --out PACKED
    python scripts/crossvalidate_packed.py train PACKED --jobs JOBS.json --out OUT --workers 6 --seconds 500
    python scripts/crossvalidate_packed.py unpack OUT DATA/sts DATA/sts_2mm --out RUNS

``pack`` writes the preprocessed patients, rounded to 1/64 of the normalised unit, in two files. ``train`` trains and
predicts what JOBS.json lists: ``{"name": ..., "set": {entry: value}, "recipe": [file], "seeds": [0], "folds": [0]}``;
the fold -1 trains on all patients. ``"peer": "segresnet", "budget": 100`` trains another network for so many seconds
instead (or ``dynunet``). Jobs that have not begun when the time is over are left out, and told. ``unpack``
makes of each name and seed a folder as `crossvalidate_sts.py` makes it, with its tables (`--only tables`).
"""

from __future__ import annotations

import argparse
import json
import lzma
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crossvalidate_sts import SUBSETS, configuration
from monai.data import Dataset
from peers_volume import BATCH, predict_volume, train_volume
from prepare_sts_cohort import FOLDS, find_cases, read_folds
from torch import Tensor, nn

from differseg_med.networks.checkpoints import halved
from differseg_med.networks.inference import fuse_for_inference

STEP, LEVELS = 64, 63
"""Steps of a normalised unit in packed images; levels of a packed probability."""
MOST_BYTES = 15_000_000
"""Of one file that a training writes."""


def pack(arguments: argparse.Namespace) -> None:
    """Preprocess, round, compress."""
    parser = configuration([], {})
    preprocess, folds = parser.get_parsed_content("preprocessing"), read_folds(FOLDS)
    halves: list[dict[str, Any]] = [{}, {}]
    for number, case in enumerate(sorted(find_cases(arguments.folders), key=lambda case: case.case_id)):
        sample = preprocess(case.as_item())
        image = sample["image"]
        rounded = np.rint(image.as_tensor().numpy() * STEP).astype(np.int16)
        change = np.diff(rounded, axis=1, prepend=np.int16(0))
        low, high = (change & 0xFF).astype(np.uint8), (change >> 8).astype(np.uint8)
        halves[number % 2][case.case_id] = {
            "image": [lzma.compress(part.tobytes(), preset=4) for part in (low, high)],
            "shape": rounded.shape,
            "label": lzma.compress(sample["label"].as_tensor().numpy().astype(np.uint8).tobytes()),
            "fold": int(folds[case.case_id]),
            "affine": np.asarray(image.affine).tolist(),
            "original_affine": np.asarray(image.meta["original_affine"]).tolist(),
            "original_shape": [int(n) for n in image.meta["spatial_shape"]],
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number, half in enumerate(halves):
        (arguments.out / f"packed{number}.pickle").write_bytes(pickle.dumps(half))


def packed_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``pack`` wrote, by patient."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("packed*.pickle")):
        found |= pickle.loads(path.read_bytes())
    return found


def label_of(case: dict[str, Any]) -> np.ndarray:
    """The label ``(1, R, A, S)`` of a packed patient."""
    return np.frombuffer(lzma.decompress(case["label"]), np.uint8).reshape(1, *case["shape"][1:])


def read_packed(folder: Path) -> list[dict[str, Any]]:
    """Patients as the data set of a training has them, with ``fold``."""
    items = []
    for name, case in sorted(packed_cases(folder).items()):
        low, high = (np.frombuffer(lzma.decompress(part), np.uint8).reshape(case["shape"]) for part in case["image"])
        change = low.astype(np.int16) | (high.astype(np.int8).astype(np.int16) << 8)
        image = np.cumsum(change, axis=1, dtype=np.int16).astype(np.float32) / STEP
        item = {"image": torch.from_numpy(image), "label": torch.from_numpy(label_of(case).astype(np.float32))}
        items.append(item | {"case_id": name, "fold": case["fold"]})
    return items


def begin(folder: str, threads: int) -> None:
    """What a worker does first: read the patients once."""
    global ITEMS
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    ITEMS = read_packed(Path(folder))


ITEMS: list[dict[str, Any]] = []


def train_peer(job: dict[str, Any]) -> dict[str, Any]:
    """Train another network for the seconds of the job, and predict as `train_one`."""
    torch.manual_seed(100 * job["seed"] + job["fold"] + 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    items = [item for item in ITEMS if item["fold"] != job["fold"]]
    network, steps = train_volume(job["peer"], items, job["budget"], device)
    result: dict[str, Any] = {"job": job, "seconds": job["budget"], "steps": steps, "losses": [0.0], "dice": {}}
    result |= {"cases": {}, "checkpoint": b"", "batch_size": BATCH}
    for item in (item for item in ITEMS if item["fold"] == job["fold"]):
        keep(result, item, predict_subsets(item["image"].to(device), partial(predict_volume, network)))
    return result


def keep(result: dict[str, Any], item: dict[str, Any], probabilities: Tensor) -> None:
    """Put a patient's probabilities ``(subsets, R, A, S)`` and their Dice at 0.4 into a result."""
    levels = (probabilities * LEVELS).round().to(torch.uint8).cpu()
    result["cases"][item["case_id"]] = lzma.compress(levels.numpy().tobytes(), preset=1)
    result["dice"][item["case_id"]] = dice_of(levels > 0.4 * LEVELS, item["label"][0] > 0)


def train_one(job: dict[str, Any]) -> dict[str, Any]:
    """Train a network by the bundle's own trainer, and predict the patients that were left out."""
    if job["peer"]:
        return train_peer(job)
    torch.manual_seed(100 * job["seed"] + job["fold"] + 1)
    settings = {"seed": 100 * job["seed"] + job["fold"] + 1, "train::fingerprint": None, **job["set"]}
    parser = configuration(job["recipe"], settings)
    items = [item for item in ITEMS if item["fold"] != job["fold"]]
    with tempfile.TemporaryDirectory() as folder:
        samples = parser.get_parsed_content("train::samples")
        parser = configuration(job["recipe"], settings)  # what is parsed once cannot be replaced
        parser.update({"output_dir": folder, "validate::evaluator": None, "train::dataset": Dataset(items, samples)})
        trainer = parser.get_parsed_content("train::trainer")
        started = time.monotonic()
        trainer.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
        losses = [float(row["loss"]) for row in trainer.recorder.rows]
        checkpoint = (Path(folder) / "best.pt").read_bytes() if job["fold"] < 0 else b""
    device = next(trainer.network.parameters()).device
    network = FixedBatch(fuse_for_inference(trainer.recorder.average.average))
    result = {"job": job, "seconds": seconds, "steps": trainer.state.iteration, "losses": losses, "dice": {}}
    result |= {"cases": {}, "checkpoint": checkpoint, "batch_size": parser.get("batch_size")}
    result["steps_are"] = getattr(trainer._process_function.whole, "state", "usual")
    for item in ITEMS:
        if item["fold"] == job["fold"]:
            keep(result, item, predict(network, parser.get_parsed_content("inferer"), item["image"].to(device)))
    return result


class FixedBatch(nn.Module):
    """A network that always sees batches of one size: a GPU plans its convolutions anew for every other."""

    SIZE = 128

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of at most so many windows."""
        found: Tensor = self.network(torch.cat((x, x.new_zeros(self.SIZE - len(x), *x.shape[1:]))))
        return found[: len(x)]


@torch.no_grad()
def predict(network: nn.Module, inferer: Any, volume: Tensor) -> Tensor:
    """Probabilities ``(subsets, R, A, S)`` of ``(M, R, A, S)`` as the bundle predicts, each modality withheld once."""
    inferer.sw_batch_size = FixedBatch.SIZE
    return predict_subsets(volume, lambda given: inferer(given[None], network)[0, 0].sigmoid())


def predict_subsets(volume: Tensor, segment: Callable[[Tensor], Tensor]) -> Tensor:
    """Probabilities ``(subsets, R, A, S)``, each modality of a volume ``(M, R, A, S)`` withheld once.

    A volume of which nothing would be left is given whole.
    """
    found = []
    for subset in SUBSETS.values():
        given = volume * torch.tensor(subset, device=volume.device)[:, None, None, None]
        found.append(segment(given if given.any() else volume))
    return torch.stack(found)


def dice_of(masks: torch.Tensor, label: torch.Tensor) -> list[float]:
    """Dice of each of ``(subsets, R, A, S)``, to three digits."""
    both = (masks & label).flatten(1).sum(dim=1)
    return [round(float(d), 3) for d in 2 * both / (masks.flatten(1).sum(dim=1) + label.sum())]


def train(arguments: argparse.Namespace) -> None:
    """Train and predict in several processes; write as results come in."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for job in json.loads(arguments.jobs.read_text()):
        common = {"name": job["name"], "set": job.get("set", {}), "recipe": job.get("recipe", [])}
        common |= {"peer": job.get("peer", ""), "budget": job.get("budget", 0)}
        jobs += [common | {"seed": seed, "fold": fold} for seed in job["seeds"] for fold in job["folds"]]
    started, results = time.monotonic(), list[dict[str, Any]]()
    setup = {"initializer": begin, "initargs": (str(arguments.packed), arguments.threads)}
    pool = ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn"), **setup)
    waiting, running = list(jobs), {}
    while waiting or running:
        while waiting and len(running) < arguments.workers:
            left = arguments.seconds - (time.monotonic() - started)
            if left < arguments.longest:
                print(f"no time is left for {len(waiting)} jobs, the first: {waiting[0]['name']}", flush=True)
                waiting.clear()
                break
            job = waiting.pop(0)
            running[pool.submit(train_one, job)] = job
        if not running:
            break
        future = next(as_completed(running))
        job = running.pop(future)
        title = f"{time.monotonic() - started:4.0f} s {job['name']} seed {job['seed']} fold {job['fold']}"
        try:
            result = future.result()
        except Exception as error:
            print(f"{title}: FAILED {type(error).__name__}: {error}", flush=True)
            continue
        means = np.mean(list(result["dice"].values()), axis=0).round(3).tolist() if result["dice"] else []
        rate = result["steps"] * result["batch_size"] / result["seconds"]
        print(
            f"{title}: {result['steps']} steps ({result.get('steps_are', 'peer')}), {result['seconds']:.0f} s,"
            f" {rate:.0f} samples/s, loss {result['losses'][-1]:.3f}, Dice of {'/'.join(SUBSETS)} {means}",
            flush=True,
        )
        results.append(result)
        write_results(results, arguments.out)
    pool.shutdown(wait=False, cancel_futures=True)


def write_results(results: list[dict[str, Any]], out: Path) -> None:
    """All results so far in few files of bounded size; checkpoints apart."""
    parts: list[list[dict[str, Any]]] = [[]]
    size = 0
    for result in results:
        own = sum(map(len, result["cases"].values()))
        if parts[-1] and size + own > MOST_BYTES:
            parts.append([])
            size = 0
        size += own
        parts[-1].append({name: value for name, value in result.items() if name != "checkpoint"})
        if result["checkpoint"] and not (target := out / f"{result['job']['name']}.pt").is_file():
            with tempfile.NamedTemporaryFile() as whole:
                whole.write(result["checkpoint"])
                whole.flush()
                state = torch.load(whole.name, map_location="cpu", weights_only=True)
            torch.save(halved(state), target)
    for number, part in enumerate(parts):
        (out / f"results{number}.pickle").write_bytes(pickle.dumps(part))


def unpack(arguments: argparse.Namespace) -> None:
    """Folders of `crossvalidate_sts.py` of what ``train`` wrote, and their tables."""
    results = [r for path in sorted(arguments.results.glob("results*.pickle")) for r in pickle.loads(path.read_bytes())]
    packed = packed_cases(arguments.packed)
    runs = dict.fromkeys((result["job"]["name"], result["job"]["seed"]) for result in results)
    for name, seed in runs:
        folder = arguments.out / f"{name}_seed{seed}"
        for result in (r for r in results if (r["job"]["name"], r["job"]["seed"]) == (name, seed)):
            own = folder / f"fold{result['job']['fold']}"
            own.mkdir(parents=True, exist_ok=True)
            told = {key: result[key] for key in ("seconds", "steps", "losses", "job", "batch_size")}
            (own / "training.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
            for case_id, levels in result["cases"].items():
                case = packed[case_id]
                shape = (1, len(SUBSETS), *case["shape"][1:])
                probabilities = np.frombuffer(lzma.decompress(levels), np.uint8).reshape(shape) / LEVELS
                content = {
                    "probabilities": torch.from_numpy(probabilities).half(),
                    "label": torch.from_numpy(label_of(case).copy()),
                    "affine": torch.tensor(case["affine"]),
                    "original_affine": torch.tensor(case["original_affine"]),
                    "original_shape": case["original_shape"],
                }
                (folder / "predictions").mkdir(exist_ok=True)
                torch.save(content, folder / "predictions" / f"{case_id}.pt")
        command = [sys.executable, str(Path(__file__).with_name("crossvalidate_sts.py")), *map(str, arguments.folders)]
        subprocess.run([*command, "--out", str(folder), "--only", "tables", "--chosen-on", "0"], check=True)


def main() -> int:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("pack")
    verb.set_defaults(run=pack)
    verb.add_argument("folders", nargs="+", type=Path)
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("train")
    verb.set_defaults(run=train)
    verb.add_argument("packed", type=Path)
    verb.add_argument("--jobs", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--workers", type=int, default=1)
    verb.add_argument("--threads", type=int, default=1, help="of each worker")
    verb.add_argument("--seconds", type=float, default=3600, help="after which no job begins")
    verb.add_argument("--longest", type=float, default=0, help="seconds that a job needs: later none begins")
    verb = verbs.add_parser("unpack")
    verb.set_defaults(run=unpack)
    verb.add_argument("results", type=Path)
    verb.add_argument("folders", nargs="+", type=Path)
    verb.add_argument("--packed", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
