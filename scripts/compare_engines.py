"""Train the sarcoma bundle by two checkouts for equally many steps, and say how far their weights are apart.

    git worktree add OLD 35fc084
    python scripts/compare_engines.py OLD --cohort COHORT.csv --out OUT --steps 130

35fc084 has the training loop before MONAI's engine; the bundle's settings are the same there. Each checkout trains its
own bundle by ``monai.bundle run``. A training that is there already is resumed, so the command can be interrupted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = Path("bundles") / "sts_petctmr_segmentation"


def train(checkout: Path, cohort: Path, out: Path, steps: int) -> dict[str, torch.Tensor]:
    """Weights after one epoch of so many steps, by the code of a checkout."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", "."]
    command += ["--config_file", "['configs/inference.yaml', 'configs/train.yaml']"]
    command += ["--meta_file", "configs/metadata.json", "--cohort", str(cohort), "--output_dir", str(out)]
    command += ["--max_epochs", "1", "--iterations", str(steps), "--val_interval", "1"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout / BUNDLE, env=environment, check=True)
    found = torch.load(out / "best.pt", map_location="cpu", weights_only=True)
    return {name: value.float() for name, value in found.items() if isinstance(value, torch.Tensor)}


def main() -> None:
    """Parse arguments, train twice and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="another checkout")
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=130)
    arguments = parser.parse_args()
    cohort, out = arguments.cohort.resolve(), arguments.out.resolve()
    old, new = (
        train(checkout.resolve(), cohort, out / name, arguments.steps)
        for checkout, name in ((arguments.old, "run_old"), (ROOT, "run_new"))
    )
    if old.keys() != new.keys():
        raise SystemExit(f"they have other names: {sorted(old.keys() ^ new.keys())[:5]}")
    differing = [name for name in old if not torch.equal(old[name], new[name])]
    apart = max(float((old[name] - new[name]).abs().max()) for name in old)
    print(f"{len(old)} tensors after {arguments.steps} steps: {len(differing)} differ, by {apart:g} at the most")


if __name__ == "__main__":
    main()
