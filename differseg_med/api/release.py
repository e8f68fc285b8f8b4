"""Make the bundle to ship; where weights are to be averaged, measure first whether that is as good."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from differseg_med.api.running import Set, quiet_monai
from differseg_med.bundles.recipe import Recipe, read_recipe
from differseg_med.bundles.release import Trained, read_states, read_trained, write_released
from differseg_med.bundles.sample import check_sample
from differseg_med.bundles.workflows import BundleRun, readable
from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.cohort.cells import same_subject
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.geometry import Grid
from differseg_med.keys import IMAGE, LABEL
from differseg_med.metrics.case import overlap
from differseg_med.modality import declared
from differseg_med.networks.ensemble import mean_logits, mean_weights
from differseg_med.training.rules import Rule

logger = logging.getLogger(__name__)


def release(
    run: str | Path,
    out: str | Path,
    *,
    bundle: str | Path | None = None,
    presets: Sequence[str | Path] = (),
    settings: Set = (),
    safetensors: bool = False,
    average: str | Path | None = None,
    fold: str | None = None,
    sample: str | Path | None = None,
) -> Path:
    """Make a bundle of a training (``best.pt``) or of a cross-validation (an ensemble of its folds).

    It has weights in half precision, the configuration that was trained, the rule chosen on all out-of-fold
    predictions, the fingerprint of the training cases, the scores in its card and a hash of every file.

    Args:
        run: folder of the results.
        out: the bundle, which is made.
        bundle: that was trained, with its presets and settings, for runs that do not say so.
        presets: as for `train`.
        settings: as for `train`.
        safetensors: write weights that can hold nothing but tensors.
        average: cohort table of labelled cases that no fold was trained on. If the mean of the folds' weights has no
            lower mean Dice there than the ensemble, it is shipped in its place: one network for the cost of one.
        fold: ship the network of this fold alone, for which the cases of that fold are held out.
        sample: cohort table of labelled cases that may be given away. Their voxels go into the folder ``sample``,
            without anything else that their files say; case ids stay as they are.

    Raises:
        CaseError: if there is nothing to release, ``out`` is there already, or a case of the sample cannot be used.
    """
    with quiet_monai():
        given = settings if isinstance(settings, Mapping) else tuple(settings)
        named = None if bundle is None else Recipe(Path(bundle), tuple(map(Path, presets)), given)
        recipe, trained = named or read_recipe(run), read_trained(run, fold)
        states, remark = read_states(trained), trained.remark
        shown = None if sample is None else _sample(recipe, Path(sample))
        if average is not None:
            states, remark = _averaged(trained, states, recipe, Path(average))
        made = write_released(trained, states, recipe, Path(out), safetensors=safetensors, remark=remark, sample=shown)
        check = BundleRun(made, ["inference"], made / "cohort.csv", made / "eval", {"device": "cpu"}).open()
        with readable(check.configuration):
            check.parser.get_parsed_content("network")  # what is shipped loads
    return made


def _sample(recipe: Recipe, table: Path) -> Cohort:
    cohort = read_cohort(table, declared(recipe.merged().get("modalities")))
    check_sample(cohort)
    return cohort


def _averaged(
    trained: Trained, states: dict[str, dict[str, Tensor]], recipe: Recipe, table: Path
) -> tuple[dict[str, dict[str, Tensor]], str]:
    """The mean of the weights if it is as good as the ensemble on cases that neither has seen; and a sentence."""
    if len(states) < 2:
        raise CaseError("only the folds of a cross-validation can be averaged", remedy="Leave out --average.")
    with tempfile.TemporaryDirectory(prefix="differseg-med-") as folder:
        ensemble = write_released(trained, states, recipe, Path(folder) / "ensemble")
        mean = {"model": mean_weights(list(states.values()))}
        cases = _held_out(trained, ensemble, table)
        first, second = _dice(trained, ensemble, mean["model"], cases).mean(axis=0)
    shipped = "mean of the weights" if second >= first else "ensemble"
    sentence = (
        f"On {len(cases)} cases that no fold was trained on the ensemble has a mean Dice of {first:.3f}, "
        f"the mean of its weights {second:.3f}: the {shipped} is shipped."
    )
    logger.info("%s", sentence)
    return (mean if second >= first else states), sentence


def _held_out(trained: Trained, bundle: Path, table: Path) -> list[Case]:
    """Labelled cases that were not trained on.

    Raises:
        CaseError: if there is none, or one of them was trained on.
    """
    run = BundleRun(bundle, ["inference"], table, bundle / "eval").open()
    cases = [c for c in read_cohort(table, declared(run.parser.get("modalities"))).cases if c.label is not None]
    seen = {same_subject(case_id) for case_id in trained.cases}
    if known := [c.case_id for c in cases if {same_subject(c.case_id), same_subject(c.subject_id)} & seen]:
        raise CaseError(
            "the networks were trained on cases of this table, which cannot choose between them",
            file=table,
            found=", ".join(known[:5]),
            remedy="Give a table of other patients.",
        )
    if not cases:
        raise CaseError("no row has a label", file=table, remedy="Give labelled cases that no fold was trained on.")
    return cases


@torch.no_grad()
def _dice(trained: Trained, bundle: Path, mean: Mapping[str, Tensor], cases: Sequence[Case]) -> np.ndarray:
    """Dice ``(cases, 2)`` of the ensemble and of the mean of its weights, on the network's grid."""
    workflow = BundleRun(bundle, ["inference"], bundle / "cohort.csv", bundle / "eval").open()
    parser, rule = workflow.parser, Rule(**trained.rule) if trained.rule else Rule()
    with readable(workflow.configuration):
        preprocess, inferer, network = (parser.get_parsed_content(n) for n in ("preprocessing", "inferer", "network"))
        device = parser.get_parsed_content("device")
    single = copy.deepcopy(network.members[0])
    single.load_state_dict(dict(mean))
    found = []
    for case in cases:
        sample = run_for_case(preprocess, case.as_item(), case)
        batch, label = sample[IMAGE][None].to(device), np.asarray(sample[LABEL][0]) > 0
        voxel_mm3 = Grid(label.shape, np.asarray(sample[IMAGE].affine)).voxel_volume_mm3
        logits = (mean_logits([inferer(batch, member) for member in network.members]), inferer(batch, single))
        masks = [rule.apply(value[0, 0].float().sigmoid().cpu().numpy(), voxel_mm3) for value in logits]
        found.append([overlap(mask, label) for mask in masks])
    return np.array(found)
