"""From the training cases of a cohort to a plan: measure the cases, then the machine, then apply the rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch

from differseg_med.case import Case, Cohort
from differseg_med.cohort.kinds import need_kinds
from differseg_med.errors import CaseError
from differseg_med.networks.checkpoints import PACKAGED_WEIGHTS, packaged_path
from differseg_med.planning import cost_rules, data_rules
from differseg_med.planning.choices import FLAT_SIZES, NETWORK_SIZES, Limits, Plan, Size
from differseg_med.planning.cost import Cost, allowed_memory, free_memory, measure_cost
from differseg_med.planning.fingerprint import Fingerprint
from differseg_med.planning.measuring import measure_cohort, training_cases
from differseg_med.transforms.intensity import NormalizeByKindd

FLAT_KINDS = ("image", "depth", "thermal", "flow")
"""Kinds of 2-D images."""


@dataclass
class Planner:
    """What a plan is made from, and the choices so far.

    Args:
        fingerprint: of the training cases.
        limits: of the training.
        device: where it will run.
        target: in the user's words.
        plan: the choices.
        validation_cases: number of cases that each validation segments.
        measure: measures a step; `measure_cost` but for tests.
    """

    fingerprint: Fingerprint
    limits: Limits
    device: torch.device
    target: str
    plan: Plan
    validation_cases: int
    measure: Callable[..., Cost] = measure_cost
    costs: dict[str, Cost] = field(default_factory=dict)
    details: dict[str, data_rules.Detail] = field(default_factory=dict)

    def make(self) -> Plan:
        """Apply the rules.

        Raises:
            CaseError: if the memory holds no training, or a value that was set is not one of the plan.
        """
        found = self.fingerprint
        modalities = self.plan.choose("modalities", lambda: self._modalities())
        reference = self.plan.choose("reference", lambda: data_rules.reference(found))
        if unknown := [name for name in (reference, *modalities) if name not in found.modalities]:
            raise CaseError(f"there is no modality {unknown[0]!r}", expected=f"one of {', '.join(found.modalities)}")
        sizes = FLAT_SIZES if found.flat else NETWORK_SIZES
        size, why = cost_rules.choose_size(sizes, self.limits, self._steps)
        chosen = self.plan.choose("size", lambda: (size.name, why))
        if (size := next((size for size in sizes if size.name == chosen), size)).name != chosen:
            raise CaseError(f"--set size={chosen} does not fit", expected=f"one of {', '.join(s.name for s in sizes)}")
        if found.flat:
            self.plan.choose("spatial_size", lambda: self._spatial_size(size))
        else:
            self._grid(size, self.plan)
            self._network(size, self.plan)
        self._training(size)
        if not found.flat:
            self._sampling()
        self.plan.choose("threshold", data_rules.threshold)
        self.plan.end()
        return self.plan

    def _modalities(self) -> tuple[dict[str, Any], str]:
        ruled = {name: data_rules.normalization(name, facts) for name, facts in self.fingerprint.modalities.items()}
        reasons = "; ".join(f"**{name}**: {reason}" for name, (_, reason) in ruled.items())
        return {name: settings for name, (settings, _) in ruled.items()}, reasons

    def _spatial_size(self, size: Size) -> tuple[list[int], str]:
        return [size.window] * 2, f"of the {size.name} size; 2-D images are brought to it whatever their proportions"

    def _grid(self, size: Size, plan: Plan, given: data_rules.Detail | None = None) -> None:
        """Grid, planes, slabs and window; also on trial, for the cost of a size or of a detail."""
        found, reference = self.fingerprint, self.plan.choices["reference"].value
        detail = given or self._detail(size)
        used = plan.choose("planes", lambda: data_rules.planes(found, reference, detail))
        grid = plan.choose("pixdim", lambda: data_rules.pixdim(found, reference, detail.mm, used, detail.why))
        plan.choose("num_slices", lambda: data_rules.num_slices(found))
        plan.choose("slice_step", lambda: data_rules.slice_step(found, grid, used))
        plan.choose("roi_size", lambda: data_rules.roi_size(found, reference, grid, used, size.window))

    def _detail(self, size: Size) -> data_rules.Detail:
        """The finest detail that a validation has the time for."""
        if size.name not in self.details:
            cost, seconds = self._cost(size), list[float]()
            for detail in data_rules.details(self.fingerprint, self.plan.choices["reference"].value, size):
                trial = Plan(self.plan.overrides, dict(self.plan.choices))
                self._grid(size, trial, detail)
                seconds.append(self._validation(trial, cost.step_seconds / cost.batch_size))
                if seconds[-1] <= cost_rules.VALIDATION_SHARE * self.limits.seconds:
                    break
            self.details[size.name] = cost_rules.afforded(detail, seconds, self.limits)
        return self.details[size.name]

    def _network(self, size: Size, plan: Plan) -> None:
        name = plan.choose("encoder", lambda: cost_rules.encoder(size, self.limits, weights_at_hand))
        weights = plan.choose("encoder_weights", lambda: cost_rules.encoder_weights(name, weights_at_hand))
        cached = weights is None and weights_at_hand(name) == "cache"
        plan.choose(
            "pretrained", lambda: (cached, "from timm's cache" if cached else "nothing is fetched from timm's hub")
        )
        pretrained = weights is not None or cached
        plan.choose("decoder_channels", lambda: ([*size.decoder_channels], f"of the {size.name} size"))
        plan.choose("freeze_stages", lambda: cost_rules.freeze_stages(size, pretrained and name in PACKAGED_WEIGHTS))
        plan.choose("encoder_share", lambda: cost_rules.encoder_share(pretrained))

    def _cost(self, size: Size) -> Cost:
        """The measured cost of a size with the values that it would have."""
        if size.name not in self.costs:
            trial = Plan(self.plan.overrides)
            channels, network, window = self._trial(size, trial)
            self.costs[size.name] = self.measure(channels, window, size.batch_size, self.device, **network)
        return self.costs[size.name]

    def _trial(self, size: Size, trial: Plan) -> tuple[list[int], dict[str, Any], list[int]]:
        channels = NormalizeByKindd(self.plan.choices["modalities"].value).channels
        if self.fingerprint.flat:
            return channels, {}, trial.choose("spatial_size", lambda: self._spatial_size(size))
        self._grid(size, trial, next(data_rules.details(self.fingerprint, self.plan.choices["reference"].value, size)))
        self._network(size, trial)
        value = {name: choice.value for name, choice in trial.choices.items()}
        network = {name: value[name] for name in ("encoder", "decoder_channels", "freeze_stages")}
        return [count * value["num_slices"] for count in channels], network, value["roi_size"]

    def _batch(self, size: Size) -> tuple[int, str]:
        return cost_rules.batch_size(self._cost(size), size, self.limits, self._cases_bytes(size))

    def _cases_bytes(self, size: Size) -> int:
        """Memory of all training cases, which a training keeps."""
        trial = Plan(self.plan.overrides)
        channels = sum(NormalizeByKindd(self.plan.choices["modalities"].value).channels) + 1
        if self.fingerprint.flat:
            rows, columns = trial.choose("spatial_size", lambda: self._spatial_size(size))
            return self.fingerprint.cases * rows * columns * channels * 4
        self._grid(size, trial)
        facts = self.fingerprint.modalities[self.plan.choices["reference"].value]
        voxels = facts.field_ml.median * 1000 / math.prod(trial.choices["pixdim"].value)
        return int(self.fingerprint.cases * voxels * channels * 4)

    def _steps(self, size: Size) -> float:
        batch = int(self.plan.overrides.get("batch_size", 0)) or self._batch(size)[0]
        seconds = cost_rules.step_seconds(self._cost(size), batch)
        trial = Plan(self.plan.overrides, dict(self.plan.choices))
        if not self.fingerprint.flat:
            self._grid(size, trial)
        return cost_rules.steps_in(self.limits, self._preparing() + self._validation(trial, seconds / batch), seconds)

    def _preparing(self) -> float:
        """Seconds for reading and resampling all cases once; resampling takes about as long as measuring."""
        return 2 * self.fingerprint.seconds_per_case * (self.fingerprint.cases + self.validation_cases)

    def _training(self, size: Size) -> None:
        plan, cost = self.plan, self._cost(size)
        batch = plan.choose("batch_size", lambda: self._batch(size))
        seconds = cost_rules.step_seconds(cost, batch)
        validation = self._validation(plan, seconds / batch)
        plan.case_seconds = validation / self.validation_cases
        steps = cost_rules.steps_in(self.limits, self._preparing() + validation, seconds)
        per_epoch = plan.choose("iterations", lambda: cost_rules.iterations(steps))
        if steps < cost_rules.FEWEST_STEPS and "max_epochs" not in plan.overrides:
            raise cost_rules.too_short(self.limits, self._preparing() + validation, seconds, steps)
        epochs = plan.choose(
            "max_epochs",
            lambda: cost_rules.max_epochs(steps, per_epoch, size, seconds, self.limits, cost.delay),
        )
        plan.choose("val_interval", lambda: cost_rules.val_interval(epochs, per_epoch * seconds, validation))
        if self.fingerprint.flat:
            plan.choose("learning_rate", lambda: (0.001, "as the bundles of 2-D images of this project were trained"))
        else:
            plan.choose("learning_rate", lambda: cost_rules.learning_rate(epochs * per_epoch))
            plan.choose("average_decay", lambda: cost_rules.average_decay(epochs * per_epoch))
        plan.choose("modality_dropout", lambda: data_rules.modality_dropout(self.fingerprint))

    def _validation(self, plan: Plan, sample_seconds: float) -> float:
        """Seconds of a validation: forward only, a third of a step's time per window."""
        if self.fingerprint.flat:
            return self.validation_cases * sample_seconds / 3
        value = {name: choice.value for name, choice in plan.choices.items()}
        extent = [spread.median for spread in self.fingerprint.modalities[value["reference"]].extent_mm]
        size = [mm / step for mm, step in zip(extent, value["pixdim"])]
        windows = 0.0
        for plane in value["planes"]:
            axis = data_rules.PLANE_OF_AXIS.index(plane)
            tiles = (max(1.0, math.ceil(2 * n / value["roi_size"][0]) - 1) for i, n in enumerate(size) if i != axis)
            windows += size[axis] * math.prod(tiles)
        return self.validation_cases * windows * sample_seconds / 3

    def _sampling(self) -> None:
        found, plan = self.fingerprint, self.plan
        plan.choose("focal_gamma", lambda: data_rules.focal_gamma(found))
        plan.choose("foreground_prob", lambda: data_rules.foreground_prob(found))
        plan.choose("flip_prob", lambda: data_rules.flip_prob(found, self.target))
        plan.choose("max_shift", lambda: data_rules.max_shift(found, min(plan.choices["pixdim"].value)))
        plan.choose("largest_only", lambda: data_rules.largest_only(found))


def weights_at_hand(name: str) -> str:
    """Where the pretrained weights of an encoder are: ``package``, ``cache`` (of timm's hub), or empty for nowhere."""
    if name in PACKAGED_WEIGHTS:
        try:
            packaged_path(name)
        except ValueError:
            return ""
        return "package"
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = getattr(config, "hf_hub_id", None)
    files = ("model.safetensors", "pytorch_model.bin")
    found = repository and any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)
    return "cache" if found else ""


def plan_cohort(
    cohort: Cohort,
    *,
    seconds: float,
    memory: int | None = None,
    device: str | None = None,
    target: str = "",
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[Plan, Fingerprint, list[Case]]:
    """Measure the training cases and this machine, and choose.

    Args:
        cohort: the table, with the kinds of its modalities.
        seconds: for one training.
        memory: bytes that the training may use; None for what is free.
        device: where it will run; None for a GPU if there is one.
        target: in the user's words.
        overrides: values in place of the rules'.
        progress: wraps the cases.

    Returns:
        The plan, the fingerprint and the cases that were planned for.

    Raises:
        CaseError: if the cases or the memory do not suffice, or a kind of image is not known.
    """
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if on.type == "cuda" and not torch.cuda.is_available():
        raise CaseError("there is no GPU here that torch can use", expected="cpu", found=str(on), remedy="--device cpu")
    bytes_allowed = allowed_memory(memory, free_memory(on))
    need_kinds(cohort, "a plan")
    cases = training_cases(cohort)
    fingerprint = measure_cohort(cohort, cases, progress)
    validation = sum(case.split == "validation" for case in cohort.cases) or max(1, len(cases) // 5)
    limits = Limits(seconds, bytes_allowed, on.type == "cuda")
    planner = Planner(fingerprint, limits, on, target, Plan(dict(overrides or {})), validation)
    return planner.make(), fingerprint, cases
