"""The bundle to ship, made of a training or of the folds of a cross-validation."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from differseg_med.atomic import replacing, write_text
from differseg_med.bundles.manifest import write_manifest
from differseg_med.bundles.recipe import Recipe
from differseg_med.bundles.rewriting import released_configs
from differseg_med.bundles.sample import SAMPLE_FOLDER, write_sample
from differseg_med.case import Cohort
from differseg_med.errors import CaseError
from differseg_med.networks.checkpoints import halved, read_state_dict
from differseg_med.prediction.quality import Fingerprint
from differseg_med.runs.manifest import read_steps
from differseg_med.training.crossvalidation import CASES, FOLD_SUMMARY, RULE

logger = logging.getLogger(__name__)

FOLD_WEIGHTS, BEST_WEIGHTS = "model.pt", "best.pt"
SHIPPED_FINGERPRINT = "fingerprint.json"
SCORES = "Performance"
"""Section of the card that a release writes anew: earlier scores are those of other weights."""


@dataclass(frozen=True)
class Trained:
    """What a folder of results has to ship.

    Args:
        weights: files of weights by the name that the bundle gives them, without ending.
        fingerprint: what the training cases measured; None if nothing says so.
        rule: threshold and component rule; empty to keep the bundle's.
        card: for the model card, Markdown.
        cases: ids of the cases that were trained on.
        remark: on the weights, for the card.
    """

    weights: Mapping[str, Path]
    fingerprint: Fingerprint | None = None
    rule: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    cases: frozenset[str] = frozenset()
    remark: str = ""


def read_trained(run: str | Path, fold: str | None = None) -> Trained:
    """What a training or a cross-validation left.

    Args:
        run: folder of the results.
        fold: of a cross-validation, the one whose network is shipped alone; None for the ensemble of all.

    Raises:
        CaseError: if it is neither, folds are missing, or there is no such fold.
    """
    run = Path(run)
    folds = {path.parent.name: path for path in sorted(run.glob(f"fold*/{FOLD_WEIGHTS}"))}
    if folds:
        whole = _of_folds(run, folds)
        return whole if fold is None else _of_one(run, whole, fold)
    if fold is not None:
        raise CaseError("this is no cross-validation", file=run, remedy="Leave out --fold.")
    if not (run / BEST_WEIGHTS).is_file():
        remedy = "Give the --out of differseg-med train, when it is done."
        raise CaseError(
            "there is nothing to release here", file=run, expected=f"{BEST_WEIGHTS}, or folds", remedy=remedy
        )
    known = run / SHIPPED_FINGERPRINT
    ids = {name.split(" ", 1)[-1] for step in read_steps(run).values() for name in step.inputs if " " in name}
    return Trained(
        {"model": run / BEST_WEIGHTS}, Fingerprint.read(known) if known.is_file() else None, cases=frozenset(ids)
    )


def _of_folds(run: Path, folds: Mapping[str, Path]) -> Trained:
    rows = _rows(run / CASES)
    step = read_steps(run).get("folds")
    wanted = {f"fold{row['fold']}" for row in rows} | {
        f"fold{i['fold']}" for i in (step.inputs if step else {}).values()
    }
    measured = {f"fold{row['fold']}" for row in rows if row.get("dice")}
    if missing := sorted(wanted - (set(folds) & measured)):
        raise CaseError(
            "the folds are not all there",
            file=run,
            found=f"{', '.join(missing)} not trained or not predicted",
            remedy="Run differseg-med train --folds all again with this --out.",
        )
    prints = [Fingerprint.read(path) for name in folds if (path := run / name / SHIPPED_FINGERPRINT).is_file()]
    rule = json.loads((run / RULE).read_text(encoding="utf-8"))["rule"] if (run / RULE).is_file() else {}
    text = (run / FOLD_SUMMARY).read_text(encoding="utf-8") if (run / FOLD_SUMMARY).is_file() else ""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("not used"))  # it names cases
    return Trained(
        folds, _joined(prints, rows), rule, re.sub(r"\n{3,}", "\n\n", kept), frozenset(row["case"] for row in rows)
    )


def _of_one(run: Path, whole: Trained, fold: str) -> Trained:
    """The network of one fold alone, with the rule and the scores of all folds."""
    name = f"fold{fold}"
    if name not in whole.weights:
        found = ", ".join(known.removeprefix("fold") for known in whole.weights)
        raise CaseError(f"there is no fold {fold!r}", file=run, expected=f"one of {found}")
    held_out = {row["case"] for row in _rows(run / CASES) if row["fold"] == fold}
    known = run / name / SHIPPED_FINGERPRINT
    return replace(
        whole,
        weights={"model": whole.weights[name]},
        fingerprint=Fingerprint.read(known) if known.is_file() else None,
        cases=whole.cases - held_out,
        remark=f"It is the network of fold {fold}, which was not trained on the cases of that fold.",
    )


def _joined(prints: Sequence[Fingerprint], rows: Sequence[Mapping[str, str]]) -> Fingerprint | None:
    """The ranges of all training cases: each case is in those of every fold but its own."""
    if not prints:
        return None
    times = max(1, len(prints) - 1)
    ranges: dict[str, tuple[float, float]] = {}
    for name in sorted({name for found in prints for name in found.ranges}):
        limits = [found.ranges[name] for found in prints if name in found.ranges]
        ranges[name] = (min(low for low, _ in limits), max(high for _, high in limits))
    entropy = [float(row["boundary_entropy"]) for row in rows if row["subset"] == "all" and row.get("boundary_entropy")]
    if entropy:  # of predictions for cases that were not trained on
        ranges["boundary_entropy"] = (min(entropy), max(entropy))
    names = dict.fromkeys(name for found in prints for name in found.modalities)
    counts = {name: sum(found.modalities.get(name, 0) for found in prints) // times for name in names}
    return Fingerprint(sum(found.cases for found in prints) // times, ranges, counts)


def write_released(
    trained: Trained,
    states: Mapping[str, Mapping[str, Tensor]],
    recipe: Recipe,
    out: Path,
    *,
    safetensors: bool = False,
    remark: str = "",
    sample: Cohort | None = None,
) -> Path:
    """Write a bundle with weights in half precision and the hash of every file.

    Args:
        trained: rule, fingerprint and scores.
        states: weights by the name that the bundle gives them; several make an ensemble.
        recipe: of the training.
        out: folder of the bundle, which is made.
        safetensors: write files that can hold nothing but tensors.
        remark: on the weights, for the card.
        sample: of `check_sample`; its voxels are copied into the folder ``sample``.

    Raises:
        CaseError: if the folder is there already, or a case of the sample cannot be used.
    """
    if out.exists():
        raise CaseError("there is a folder of that name already", file=out, remedy="Choose another --out.")
    ending = ".safetensors" if safetensors else ".pt"
    texts = released_configs(recipe, _changes(recipe, trained, [f"{name}{ending}" for name in states]))
    making = out.with_name(f".{out.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        for folder in ("configs", "docs"):
            if (recipe.bundle / folder).is_dir():
                shutil.copytree(recipe.bundle / folder, making / folder)
        for licence in recipe.bundle.glob("LICENSE*"):
            shutil.copyfile(licence, making / licence.name)
        for name, text in texts.items():
            write_text(making / "configs" / f"{name}.yaml", text)
        for name, state in states.items():
            save_half(state, making / "models" / f"{name}{ending}")
        if trained.fingerprint is not None:
            trained.fingerprint.write(making / "models" / SHIPPED_FINGERPRINT)
        if sample is not None:
            write_sample(sample, making / SAMPLE_FOLDER, trained.cases)
        _fill_card(making / "docs" / "README.md", trained, states, remark)
        (making / "manifest.json").unlink(missing_ok=True)
        write_manifest(making)
        making.rename(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return out


def _changes(recipe: Recipe, trained: Trained, files: Sequence[str]) -> dict[str, Any]:
    """The entries that the bundle has otherwise than its recipe."""
    parser = recipe.merged()
    paths = [f"$@bundle_root + '/models/{file}'" for file in files]
    place = "checkpoint" if "checkpoint" in parser else "network::path"
    changes: dict[str, Any] = {place: paths[0] if len(paths) == 1 else paths}
    entry = parser.get("postprocessing")
    if trained.rule and isinstance(entry, dict) and str(entry.get("_target_", "")).endswith("bundle.postprocessing"):
        for name in ("threshold", "largest_only"):
            shared = entry.get(name) == f"@{name}"
            changes[name if shared else f"postprocessing::{name}"] = trained.rule[name]
    elif trained.rule:
        logger.warning("the bundle's postprocessing is its own: the rule of the folds is in the card only")
    return changes


def save_half(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as plain tensors, in half precision where that is safe, see `halved`."""
    saved = halved(state)
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in saved.items()}, temporary)
        else:
            with temporary.open("wb") as file:  # of a path torch writes the name into the file
                torch.save(saved, file)


def read_states(trained: Trained) -> dict[str, dict[str, Tensor]]:
    """The weights by name.

    Raises:
        CaseError: if a file cannot be read.
    """
    try:
        return {name: read_state_dict(path) for name, path in trained.weights.items()}
    except ValueError as error:
        raise CaseError(str(error)) from error


def _fill_card(card: Path, trained: Trained, states: Mapping[str, object], remark: str) -> None:
    """Put the scores of the cross-validation and what the weights are into the card, in place of earlier scores."""
    text = card.read_text(encoding="utf-8") if card.is_file() else "# Model card\n"
    count = trained.fingerprint.cases if trained.fingerprint else len(trained.cases)
    made = f"The mean probability of {len(states)} networks, one per fold." if len(states) > 1 else "One network."
    lines = [f"## {SCORES}", "", f"{made} Trained on {count} cases; weights in half precision. {remark}".strip(), ""]
    if trained.card:
        lines += ["Out-of-fold scores: each case was predicted by a network that did not see it.", ""]
        lines += [trained.card.strip(), ""]
        if len(trained.weights) > 1:  # what is shipped is none of the networks that were measured
            lines += [
                "They are scores of single networks: an ensemble or a mean of weights has no out-of-fold score.",
                "",
            ]
    else:
        lines += ["No scores: these weights were chosen on the validation cases of their training.", ""]
    section = re.compile(rf"^## {SCORES}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    block = "\n".join(lines) + "\n"
    filled = section.sub(lambda _: block, text) if section.search(text) else f"{text.rstrip()}\n\n{block}"
    write_text(card, filled.rstrip() + "\n")


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
