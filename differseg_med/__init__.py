"""Multimodal binary segmentation of medical images: DifferSeg on MONAI.

    import differseg_med as ds

    found = ds.segment("BUNDLE", t1="t1.nii.gz", pet="pet_series/")

Everything public is in `differseg_med.api`. It is loaded when it is first asked for: importing the package takes no
time and no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from differseg_med.api import (
        CaseError,
        CohortResult,
        ConfigError,
        DifferSeg,
        FoldsResult,
        PlannedBundle,
        Segmentation,
        TrainingResult,
        check,
        collect,
        compare,
        describe,
        evaluate,
        evaluate_subsets,
        plan,
        predict,
        read_cohort,
        read_label,
        read_volume,
        release,
        scan,
        segment,
        train,
        train_folds,
    )

__version__ = version("differseg-med")
__all__ = [
    "CaseError",
    "CohortResult",
    "ConfigError",
    "DifferSeg",
    "FoldsResult",
    "PlannedBundle",
    "Segmentation",
    "TrainingResult",
    "__version__",
    "check",
    "collect",
    "compare",
    "describe",
    "evaluate",
    "evaluate_subsets",
    "plan",
    "predict",
    "read_cohort",
    "read_label",
    "read_volume",
    "release",
    "scan",
    "segment",
    "train",
    "train_folds",
]


def __getattr__(name: str) -> Any:
    """Load the public name that is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("differseg_med.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
