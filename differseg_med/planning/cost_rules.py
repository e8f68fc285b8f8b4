"""Rules that follow from time and memory: size of the training, batch, steps, learning rate, validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from differseg_med.errors import CaseError
from differseg_med.networks.checkpoints import PACKAGED_WEIGHTS
from differseg_med.planning.choices import Limits, Size
from differseg_med.planning.cost import GB, Cost, told_time
from differseg_med.planning.data_rules import Detail, Ruled

RESERVED_SHARE = 0.15
"""Share of the time that is left for validation and whatever else the machine does."""

VALIDATION_SHARE = 0.25
"""Of the time, that one validation may take; where it would take more, the images are looked at less finely."""

SMALLEST_BATCH = 2

FEWEST_STEPS = 10
"""Of a training: those of the shortest epoch."""

BUSY = 1.5
"""From here on it is told that a step takes so many times as long as on a machine that does nothing else."""

SMALL_ENCODER, LARGE_ENCODER = "tf_efficientnet_lite0", "convnext_tiny"
_HOURS_FOR_LARGE = 4


def choose_size(sizes: Sequence[Size], limits: Limits, steps_of: Callable[[Size], float]) -> tuple[Size, str]:
    """The largest size of training that has enough steps in the time.

    Args:
        sizes: the smallest first.
        limits: of the training.
        steps_of: how many steps of a size the time allows, measured; asked for as few sizes as possible.

    Returns:
        The size, and why.
    """
    chosen, steps = sizes[0], steps_of(sizes[0])
    reason = f"about {steps:.0f} steps of the {chosen.name} size fit the time"
    for size in sizes[1:]:
        if size.on_gpu and not limits.on_gpu:
            return chosen, f"{reason}; the {size.name} size is for GPUs"
        if steps < 2 * size.fewest_steps:  # a larger step takes at least twice as long
            return chosen, f"{reason}; the {size.name} size needs {size.fewest_steps}"
        more = steps_of(size)
        if more < size.fewest_steps:
            return chosen, f"{reason}; of the {size.name} size {more:.0f}, and it needs {size.fewest_steps}"
        chosen, steps = size, more
        reason = f"about {steps:.0f} steps of the {chosen.name} size fit the time, it needs {chosen.fewest_steps}"
    return chosen, reason


def afforded(detail: Detail, seconds: Sequence[float], limits: Limits) -> Detail:
    """A detail with the reasons why it is not a finer one.

    Args:
        detail: the first of `details` whose validation there is time for, or the last.
        seconds: of a validation, of each that was tried.
        limits: of the training.
    """
    if len(seconds) < 2:
        return detail
    first, one = (told_time(value) for value in seconds[:2])
    whole = f"a validation, of {told_time(limits.seconds)} in all (--time)"
    why = f"{detail.why}, but would need {one} for {whole}" if len(seconds) > 2 else detail.why
    return replace(detail, why=why, why_one=f"they would need {first} for {whole}")


def batch_size(cost: Cost, size: Size, limits: Limits, cases_bytes: int) -> Ruled:
    """As many samples per step as the size has and the memory takes.

    Raises:
        CaseError: if not even a batch of two fits.
    """
    for count in (n for n in (size.batch_size, 8, 4, SMALLEST_BATCH) if n <= size.batch_size):
        needed = cost.needed(count, cases_bytes, on_gpu=limits.on_gpu)
        if needed <= limits.memory_bytes:
            words = f"needs about {needed / GB:.1f} of {limits.memory_bytes / GB:.1f} GB"
            if count < size.batch_size:
                return count, f"{words}; {size.batch_size} would need more"
            return (
                count,
                f"{words}; of larger batches a sample costs more on a processor" if not limits.on_gpu else words,
            )
    needed = cost.needed(SMALLEST_BATCH, cases_bytes, on_gpu=limits.on_gpu)
    raise CaseError(
        "the memory does not hold a training",
        expected=f"about {needed / GB:.1f} GB, {cases_bytes / GB:.1f} GB of it for the training cases",
        found=f"{limits.memory_bytes / GB:.1f} GB",
        remedy="Give more --memory, or a coarser grid: --set pixdim=[4,4,4] --set roi_size=[64,64].",
    )


def step_seconds(cost: Cost, batch: int) -> float:
    """Seconds of a step with another batch than the measured one."""
    return cost.step_seconds * batch / cost.batch_size


def steps_in(limits: Limits, preparing_seconds: float, seconds: float) -> float:
    """Steps that fit the time."""
    return max((limits.seconds * (1 - RESERVED_SHARE) - preparing_seconds) / seconds, 0.0)


def iterations(steps: float) -> Ruled:
    """Steps per epoch."""
    count = 50 if steps >= 500 else 25 if steps >= 100 else 10
    return count, "steps between two looks at the loss"


def max_epochs(steps: float, per_epoch: int, size: Size, seconds: float, limits: Limits, delay: float = 1) -> Ruled:
    """Epochs that fit the time, up to where more bring little.

    Args:
        steps: that fit the time.
        per_epoch: steps of an epoch.
        size: of the training.
        seconds: of a step on a machine that does nothing else.
        limits: of the training.
        delay: how many times as long a step takes at present.
    """
    epochs = max(1, math.floor(min(steps, size.most_steps) / per_epoch))
    words = f"{epochs * per_epoch} steps of {seconds:.2f} s (measured) take {told_time(epochs * per_epoch * seconds)}"
    busy = f"; now a step takes {delay:.1f} times as long: other programs compute too" if delay >= BUSY else ""
    if steps > size.most_steps:
        return epochs, f"{words}; more than {size.most_steps} steps bring little to the {size.name} size{busy}"
    if steps < 300:
        enough = told_time(600 * seconds / (1 - RESERVED_SHARE))
        return epochs, f"{words} of {told_time(limits.seconds)}: few; 600 steps would take {enough} (--time){busy}"
    return epochs, f"{words} of {told_time(limits.seconds)}; the rest is for preparing and validation{busy}"


def too_short(limits: Limits, preparing_seconds: float, seconds: float, steps: float) -> CaseError:
    """The refusal of a time in which nothing can be learnt: fewer steps than `FEWEST_STEPS`."""
    needed = (preparing_seconds + 600 * seconds) / (1 - RESERVED_SHARE)
    return CaseError(
        "the time is too short for a training",
        expected=f"about {told_time(needed)}: 600 steps of {seconds:.2f} s, and preparing and validating the cases",
        found=f"--time {told_time(limits.seconds)}, enough for {math.floor(steps)} steps",
        remedy=f"--time {math.ceil(needed / 60)}min, or set the epochs yourself: --set max_epochs=1.",
    )


def val_interval(epochs: int, epoch_seconds: float, validation_seconds: float) -> Ruled:
    """Epochs between validations: about six in all, no more than a tenth of the time."""
    fewest = math.ceil(validation_seconds / max(0.1 * epoch_seconds, 1e-6))
    interval = min(max(math.ceil(epochs / 6), fewest, 1), epochs)
    return interval, f"a validation takes about {told_time(validation_seconds)}, an epoch {told_time(epoch_seconds)}"


def learning_rate(steps: int) -> Ruled:
    """Highest learning rate of the one-cycle schedule."""
    if steps < 5_000:
        return 0.003, "short trainings gain most by a high rate (docs/evidence.md: 0.785 against 0.780 in 200 s)"
    return 0.001, "long trainings need no haste"


def encoder_share(pretrained: bool) -> Ruled:
    """The encoder's learning rate as a share of the others'."""
    if not pretrained:
        return 1.0, "nothing in the encoder is pretrained"
    return 0.3, "its weights are pretrained, the others freshly drawn"


def average_decay(steps: int) -> Ruled:
    """Decay of the moving average of the weights."""
    decay = 0.98 if steps < 1_000 else 0.99 if steps < 4_000 else 0.995
    return decay, f"averages over about {1 / (1 - decay):.0f} of {steps} steps"


def encoder(size: Size, limits: Limits, at_hand: Callable[[str], str]) -> Ruled:
    """The encoder by time: a larger one only with hours on a GPU, and only if its weights are at hand.

    Args:
        size: of the training.
        limits: of the training.
        at_hand: where the pretrained weights of an encoder are: ``package``, ``cache``, or empty.
    """
    if size.on_gpu and limits.seconds >= _HOURS_FOR_LARGE * 3600:
        time = told_time(limits.seconds)
        if at_hand(LARGE_ENCODER):
            return LARGE_ENCODER, f"{time} on a GPU are enough for it, and its weights are at hand"
        why = f"{LARGE_ENCODER} would suit {time} on a GPU, but its weights are not on this machine"
        return SMALL_ENCODER, why
    return SMALL_ENCODER, "learns most per second on little hardware (docs/encoders.md)"


def encoder_weights(name: str, at_hand: Callable[[str], str]) -> Ruled:
    """Pretrained weights of the encoder, where they can be had without a network."""
    where = at_hand(name)
    if where == "package":
        return "package", f"weights from ImageNet, from the installed package {PACKAGED_WEIGHTS[name][1]}"
    if where:
        return None, "timm's own weights, which are on this machine (pretrained)"
    return None, (
        f"**random weights: none of {name} are on this machine**; expect much less of a short training. From a file: "
        "--set encoder_weights=FILE; from timm's hub, with a network: differseg-med train --set pretrained=true"
    )


def freeze_stages(size: Size, pretrained: bool) -> Ruled:
    """First stages of the encoder that stay as they are."""
    if not pretrained:
        return 0, "nothing in the encoder is pretrained"
    if size.freeze_stages:
        return size.freeze_stages, "a step costs a quarter less, and what they see is edges (docs/evidence.md)"
    return 0, "there is time to train all of it"
