"""Install a wheel into an empty environment and use it far from any checkout: ``python scripts/check_wheel.py dist``.

The environment has the wheel alone. Its dependencies come from the environment that runs this script, by a ``.pth``
file, so that this takes seconds; ``--from-index`` lets pip install them (minutes). Commands: sample, predict, plan,
new, train, evaluate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

BUNDLE = "bundles/sts_petctmr_segmentation"
TINY = ["--set", "max_epochs=1", "--set", "iterations=2", "--set", "batch_size=1", "--set", "planes=[axial]"]
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("sample", "--out", "."),
    ("predict", "--bundle", BUNDLE, "--cohort", "cohort.csv", "--out", "results", "--split", "validation", *TINY[-2:]),
    ("plan", "cohort.csv", "--name", "planned", "--target", "tumour", "--time", "10min", "--out", "bundles"),
    ("new", "--name", "begun", "--modalities", "flair=mr,t1c=mr"),
    ("train", "--bundle", BUNDLE, "--cohort", "cohort.csv", "--out", "run", "--preset", "configs/cpu.yaml", *TINY),
    ("evaluate", "--predictions", "results", "--cohort", "cohort.csv", "--split", "validation", "--out", "scores"),
)
FILES = ("results/third/mask.nii.gz", "bundles/planned/docs/PLAN.md", "bundles/begun/configs/inference.yaml")
FILES += ("run/best.pt", "scores/metrics.csv")


def install(wheel: Path, folder: Path, from_index: bool) -> Path:
    """An environment with the wheel; returns its Python."""
    venv.create(folder, with_pip=from_index)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(where.stdout.strip())
    if from_index:
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    else:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
        subprocess.run(pip, check=True)
        # A .pth file inside of a folder that a .pth file names is not followed: an editable install stays outside.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, words: Sequence[str], folder: Path) -> None:
    """A command of the installed package, in a folder without a checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import sys; from differseg_med.cli import app; app(sys.argv[1:])"
    subprocess.run([python, "-c", code, *words], cwd=folder, env=environment, check=True)


def main() -> None:
    """Install and use the wheel."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dist", type=Path)
    parser.add_argument("--from-index", action="store_true")
    arguments = parser.parse_args()
    (wheel,) = arguments.dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = install(wheel.resolve(), folder / "venv", arguments.from_index)
        for words in COMMANDS:
            print("differseg-med", *words, flush=True)
            run(python, words, folder)
            if words[0] == "sample":
                one_patient(folder)
        missing = [name for name in FILES if not (folder / name).exists()]
        if missing:
            raise SystemExit(f"not written: {', '.join(missing)}")
    print("The wheel has what its commands need.")


def one_patient(folder: Path) -> None:
    """The table of the smaller sample patient, for training and validation alike: two steps teach nothing."""
    sample = folder / BUNDLE / "sample"
    table = pd.read_csv(sample / "cohort.csv").iloc[[1, 1, 1]]
    for column in ("t1", "ct", "pet", "label"):
        table[column] = [str(sample / cell) for cell in table[column]]
    table["case_id"] = table["subject_id"] = ["first", "second", "third"]
    table["split"] = ["train", "train", "validation"]
    table.to_csv(folder / "cohort.csv", index=False)
    (folder / "cohort.yaml").write_text("modalities: {t1: {kind: mr}, ct: {kind: ct}, pet: {kind: pet}}\n")


if __name__ == "__main__":
    main()
