"""Search settings of a training with Optuna: ``pip install optuna``, which the package does not need.

    python scripts/tune_training.py BUNDLE --cohort COHORT.csv --out STUDY --trials 20
    python scripts/tune_training.py BUNDLE --cohort COHORT.csv --out STUDY --trials 20 --set max_epochs=3

Each trial is a training in a folder of its own, with its validation Dice as the value. The study is a file in STUDY:
the same command goes on with it. Whoever searches has chosen on the validation cases: score the winner on others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import differseg_med as ds


def suggested(trial: Any) -> dict[str, float]:
    """The settings of a trial: what is searched, and where."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "modality_dropout": trial.suggest_float("modality_dropout", 0.2, 0.7),
    }


def main() -> None:
    """Search, and print the best trial as options of ``differseg-med train``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of every trial")
    chosen = parser.parse_args()
    import optuna

    chosen.out.mkdir(parents=True, exist_ok=True)

    def objective(trial: Any) -> float:
        settings = [*chosen.set, *(f"{name}={value}" for name, value in suggested(trial).items())]
        settings.append(f"train::dataset::cache_dir={chosen.out / 'cache'}")  # prepared once for all trials
        result = ds.train(chosen.bundle, chosen.cohort, chosen.out / f"trial{trial.number}", settings=settings)
        if result.best_dice is None:
            raise SystemExit("nothing is validated: the table has no row of split validation")
        return result.best_dice

    storage = f"sqlite:///{chosen.out / 'study.db'}"
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(
        study_name="training", storage=storage, load_if_exists=True, direction="maximize", sampler=sampler
    )
    study.optimize(objective, n_trials=chosen.trials)
    print(f"best of {len(study.trials)}: validation Dice {study.best_value:.3f}")
    print("differseg-med train", *(f"--set {name}={value:.4g}" for name, value in study.best_params.items()))


if __name__ == "__main__":
    main()
