"""What a plan consists of: choices with their reasons, the limits that they keep, and the sizes of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from differseg_med.errors import CaseError


@dataclass(frozen=True)
class Choice:
    """A value of the bundle and why it is that.

    Args:
        name: as the bundle's configuration has it.
        value: what stands there.
        reason: in a sentence, with the numbers behind it.
    """

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Limits:
    """What a training may use.

    Args:
        seconds: of one training.
        memory_bytes: of the device that trains.
        on_gpu: whether that is a GPU.
    """

    seconds: float
    memory_bytes: int
    on_gpu: bool = False


@dataclass(frozen=True)
class Size:
    """A size of training; docs/evidence.md says what the first two reached on 40 patients.

    Args:
        name: in words.
        window: most rows and columns that a sample has.
        decoder_channels: of the network.
        freeze_stages: of the encoder.
        batch_size: of the optimizer's steps.
        fewest_steps: with fewer steps a smaller size learns more.
        most_steps: more bring little.
        on_gpu: whether it needs a GPU.
    """

    name: str
    window: int
    decoder_channels: tuple[int, int, int, int]
    freeze_stages: int
    batch_size: int
    fewest_steps: int
    most_steps: int
    on_gpu: bool = False


NETWORK_SIZES = (
    Size("small", 64, (24, 32, 48, 64), 3, 8, 0, 3_000),
    Size("medium", 96, (32, 48, 64, 96), 0, 8, 2_000, 10_000),
    Size("large", 160, (48, 64, 96, 128), 0, 16, 5_000, 25_000, on_gpu=True),
)
"""The smallest first."""

FLAT_SIZES = (
    Size("small", 256, (32, 48, 64, 96), 0, 4, 0, 3_000),
    Size("medium", 352, (32, 48, 64, 96), 0, 4, 1_500, 10_000),
    Size("large", 512, (32, 48, 64, 96), 0, 8, 5_000, 25_000, on_gpu=True),
)
"""The same for 2-D images, whose network has one size."""


@dataclass
class Plan:
    """Choices by name, in the order in which they were made; what the user set comes before the rules.

    Args:
        overrides: values of ``--set`` by name.
        choices: so far.
        case_seconds: to predict a case, estimated.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    case_seconds: float = 0.0

    def choose(self, name: str, rule: Callable[[], tuple[Any, str]]) -> Any:
        """Take the value of the rule, or what the user set in its place; the value.

        Raises:
            CaseError: if what the user set is not like what the rule gives.
        """
        value, reason = rule()
        if name in self.overrides:
            given = self.overrides[name]
            _check_like(name, given, value)
            value, reason = given, f"set by --set; the rule would have taken {value}: {reason}"
        self.choices[name] = Choice(name, value, reason)
        return value

    def end(self) -> None:
        """Refuse what was set and nothing asked for.

        Raises:
            CaseError: naming it and what may be set.
        """
        if unknown := [name for name in self.overrides if name not in self.choices]:
            raise CaseError(
                f"--set {unknown[0]}: a plan has no such value",
                expected=f"one of {', '.join(self.choices)}",
                remedy="Other values can be set when the bundle is run: differseg-med train --set name=value.",
            )


def _check_like(name: str, given: Any, like: Any) -> None:
    number = isinstance(like, int | float) and not isinstance(like, bool)
    fits = (
        isinstance(given, int | float) and not isinstance(given, bool)
        if number
        else like is None or given is None or isinstance(given, type(like) if not isinstance(like, tuple) else list)
    )
    if isinstance(like, int) and number and fits:
        fits = float(given).is_integer()
    if isinstance(like, list) and fits:
        fits = name == "planes" or len(given) == len(like)
    if not fits:
        raise CaseError(
            f"--set {name}={given} does not fit", expected=f"a value like {like}", remedy="Write lists as [1, 1, 3]."
        )
    if name in ("roi_size", "spatial_size") and any(not isinstance(n, int) or n < 32 or n % 32 for n in given):
        raise CaseError(f"--set {name}={given} does not fit", expected="multiples of 32")
