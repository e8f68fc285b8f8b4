"""What kind of image a modality is, and what follows from it: the one table that all of the package reads.

To add a kind, add an entry to `KINDS`. Its normalisation is one of `NORMALIZATIONS`, whose functions are in
`differseg_med.transforms.intensity`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ZSCORE = "zscore"
"""The nnU-Net normalisation of a channel whose name is none of `NNUNET_SCHEMES`."""

NNUNET_SCHEMES = ("ct", "nonorm", ZSCORE, "rescale_to_0_1", "rgb_to_0_1")
"""Names of channels that choose a normalisation in nnU-Net 2, small letters; every other name means a z-score."""


@dataclass(frozen=True)
class Setting:
    """A setting of a normalisation: a test of its value, and what is expected of it."""

    fits: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Kind:
    """A kind of image.

    Args:
        label: what messages call it.
        normalization: one of `NORMALIZATIONS`.
        defaults: settings that differ from those of the normalisation.
        window: grey values (lowest, highest) that pictures show; None: the 1st to 99th percentile of each image.
        judged_with: kinds that show the patient lying the same way and look alike enough for the alignment check.
        nnunet: how nnU-Net should normalise a channel of it: a name that it knows (`NNUNET_SCHEMES`).
        dicom: values of the DICOM attribute Modality that always mean this kind.
        also_dicom: values that this kind may come with, but that mean another kind first (CBCT is stored as CT).
        names: what nnU-Net and MSD data sets call such a channel, small letters.
        channels: how many channels an image may have, the usual number first.
        in_color: whether viewers show it in colors over another image.
    """

    label: str
    normalization: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    judged_with: tuple[str, ...] = ()
    nnunet: str = ZSCORE
    dicom: tuple[str, ...] = ()
    also_dicom: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    channels: tuple[int, ...] = (1,)
    in_color: bool = False


_MR_NAMES = (
    *(
        "mr",
        "mri",
        "t1",
        "t1w",
        "t1c",
        "t1ce",
        "t1gd",
        "t1wce",
        "ce-t1w",
        "t1post",
        "t1n",
        "t2",
        "t2w",
        "t2f",
        "t2star",
    ),
    *("t2starw", "flair", "t2-flair", "pd", "pdw", "dwi", "adc", "swi", "t1map", "t2map", "dce", "bold"),
)

KINDS: dict[str, Kind] = {
    "ct": Kind(
        "CT",
        "window",
        window=(-160.0, 240.0),  # soft tissue in HU
        judged_with=("ct", "pet"),
        nnunet="CT",
        dicom=("CT",),
        names=("ct", "cect", "ncct"),
    ),
    "cbct": Kind("cone-beam CT", "range", {"zero_is_missing": False}, also_dicom=("CT",), names=("cbct",)),
    "mr": Kind("MR", "nonzero", judged_with=("mr",), dicom=("MR",), names=_MR_NAMES),
    "pet": Kind(
        "PET", "log", judged_with=("pet", "ct"), dicom=("PT",), names=("pet", "pt", "suv", "fdg"), in_color=True
    ),
    "nm": Kind("SPECT", "nonzero", dicom=("NM",), names=("spect",), in_color=True),
    "us": Kind("ultrasound", "range", dicom=("US", "IVUS"), names=("us", "ultrasound")),
    "dose": Kind(  # in Gy: a z-score would lose what it means
        "radiotherapy dose", "window", {"window": (0.0, 80.0)}, nnunet="noNorm", dicom=("RTDOSE",), names=("dose",)
    ),
    "xray": Kind("X-ray", "range", {"zero_is_missing": False}, dicom=("CR", "DX", "RG", "XA", "RF", "IO", "PX")),
    "mg": Kind("mammography", "range", dicom=("MG",), names=("mammography",)),
    "oct": Kind("optical coherence tomography", "range", dicom=("OPT", "OCT", "IVOCT"), names=("oct",)),
    "image": Kind(  # read in 0 to 1
        "photograph", "channels", nnunet="noNorm", dicom=("XC", "ES", "OP", "GM", "SM"), channels=(1, 3)
    ),
    "thermal": Kind("thermal image", "channels", {"std": (0.25,)}, dicom=("TG",), names=("thermal",)),
    "depth": Kind("depth map", "range", names=("depth", "disparity")),
    "flow": Kind("optical flow", "channels", {"std": (0.25,)}, nnunet="noNorm", names=("flow",), channels=(3, 1)),
}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: object, *sizes: int) -> bool:
    return isinstance(value, list | tuple) and len(value) in sizes and all(map(_number, value))


_WINDOW = Setting(lambda v: _numbers(v, 2) and v[0] < v[1], "two numbers, the lowest and the highest")
_NOT_NEGATIVE = Setting(lambda v: _number(v) and v >= 0, "a number of voxels from 0")
_TOP = Setting(lambda v: v is None or (_number(v) and 0 < v <= 100), "a number up to 100, or null for a z-score")
_LOW = Setting(lambda v: _number(v) and 0 <= v < 50, "a number from 0 to below 50")
_POSITIVE = Setting(lambda v: _number(v) and v > 0, "a number above 0")
_YES_NO = Setting(lambda v: isinstance(v, bool), "true or false")
_MEANS = Setting(lambda v: _numbers(v, 1, 3), "a list of one or three numbers")
_SPREADS = Setting(lambda v: _numbers(v, 1, 3) and min(v) > 0, "a list of one or three numbers above 0")

NORMALIZATIONS: dict[str, dict[str, Setting]] = {
    "window": {"window": _WINDOW, "smooth": _NOT_NEGATIVE},
    "nonzero": {"percentile": _TOP},
    "log": {"log_scale": _POSITIVE},
    "channels": {"mean": _MEANS, "std": _SPREADS},
    "range": {"percentile": _LOW, "zero_is_missing": _YES_NO},
}
"""The settings of each normalisation; what they do: `differseg_med.transforms.intensity`."""

_CENTER = {"mean": (0.5,), "std": (0.5,)}


@dataclass(frozen=True)
class Modality:
    """A modality as a bundle or a cohort declares it.

    Args:
        name: column of the cohort table.
        kind: one of `KINDS`.
        channels: of its images after normalisation; 0: as the kind and the settings say.
        settings: of the kind's normalisation, where they differ from the kind's defaults.

    Raises:
        ValueError: for an unknown kind, a setting that it does not have, or a value that it cannot have: one line.
    """

    name: str
    kind: str
    channels: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"a modality needs a name of letters, found {reprlib.repr(self.name)}")
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise self._wrong("kind", f"one of {', '.join(KINDS)}", self.kind)
        known = NORMALIZATIONS[KINDS[self.kind].normalization]
        for name, value in self.settings.items():
            if name not in known:
                expected = f"{', '.join(known)} (settings of kind {self.kind})"
                raise ValueError(f"modality {self.name!r}: unknown setting {reprlib.repr(name)}, expected {expected}")
            if not known[name].fits(value):
                raise self._wrong(name, known[name].expected, value)
        object.__setattr__(self, "channels", self._channels())

    @classmethod
    def read(cls, name: Any, entry: Any) -> Modality:
        """A modality from a configuration's ``{kind: ct, window: [-160, 240]}``, or just ``ct``.

        Raises:
            ValueError: as for the class, or if the entry is neither a mapping nor a kind.
        """
        if isinstance(entry, Modality):
            return entry
        if isinstance(entry, str):
            return cls(name, entry)
        if not isinstance(entry, Mapping):
            raise ValueError(f"modality {name!r}: expected {{kind: ...}}, found {reprlib.repr(entry)}")
        settings = dict(entry)
        return cls(name, settings.pop("kind", ""), settings.pop("channels", 0), settings)

    @property
    def options(self) -> dict[str, Any]:
        """All settings of the normalisation: the kind's defaults and `settings` over them."""
        kind = KINDS[self.kind]
        options = {**kind.defaults, **self.settings}
        if kind.normalization != "channels":
            return options
        options = {**_CENTER, **options}
        return {key: [*value] * (self.channels if len(value) == 1 else 1) for key, value in options.items()}

    def _channels(self) -> int:
        kind = KINDS[self.kind]
        lengths = {len(self.settings[key]) for key in ("mean", "std") if key in self.settings}
        told = self.channels
        if not isinstance(told, int) or isinstance(told, bool) or told not in (0, *kind.channels):
            raise self._wrong("channels", " or ".join(map(str, kind.channels)), told)
        count = told or max(lengths, default=kind.channels[0])
        if not lengths <= {1, count}:
            raise self._wrong("channels", f"{max(lengths)}, as many as mean and std have", count)
        return count

    def _wrong(self, setting: str, expected: str, found: object) -> ValueError:
        return ValueError(f"modality {self.name!r}: {setting}: expected {expected}, found {reprlib.repr(found)}")


def declared(modalities: object) -> dict[str, Modality]:
    """The modalities of a configuration, in its order.

    Args:
        modalities: names to ``{kind: mr, percentile: 99}``.

    Raises:
        ValueError: that says in one line which entry is wrong, what was expected and what was found.
    """
    if not isinstance(modalities, Mapping) or not modalities:
        raise ValueError(f"modalities: expected names with {{kind: ...}} each, found {reprlib.repr(modalities)}")
    return {name: Modality.read(name, entry) for name, entry in modalities.items()}


def label_of(kind: str | None) -> str:
    """What messages call a kind."""
    return KINDS[kind].label if kind in KINDS else "unknown kind"


def is_judged(a: str | None, b: str | None) -> bool:
    """Whether images of two kinds show the patient lying the same way and look alike enough to tell."""
    return a in KINDS and b in KINDS[a].judged_with


def display_windows(kinds: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """The grey values to show by modality, for those whose kind has customary ones."""
    windows = {name: KINDS[kind].window for name, kind in kinds.items()}
    return {name: window for name, window in windows.items() if window is not None}


def shown_in_color(kind: str | None) -> bool:
    """Whether viewers show a kind of image in colors over another one, as they do PET over CT."""
    return kind is not None and KINDS[kind].in_color


def nnunet_channel(name: str, kind: str) -> str:
    """The channel name that makes nnU-Net normalise a modality as its kind needs; the modality's own if that does."""
    scheme = KINDS[kind].nnunet
    if scheme != ZSCORE:
        return scheme
    return f"{name}_{kind}" if name.casefold() in NNUNET_SCHEMES else name


def kind_of_channel(channel: str) -> str | None:
    """The kind that an nnU-Net or MSD data set means by a channel's name; None if the name does not tell."""
    return next((name for name, kind in KINDS.items() if channel.strip().casefold() in kind.names), None)


def kind_of_dicom(modality: str) -> str | None:
    """The kind of a value of the DICOM attribute Modality; None if that does not tell."""
    return next((name for name, kind in KINDS.items() if modality.strip().upper() in kind.dicom), None)


def contradicts_dicom(kind: str, modality: str) -> bool:
    """Whether an image of a kind cannot have this value of the DICOM attribute Modality."""
    other = kind_of_dicom(modality)
    return other not in (None, kind) and modality.strip().upper() not in KINDS[kind].also_dicom
