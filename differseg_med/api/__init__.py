"""The package from Python: what the command line does, as functions that return results and raise `CaseError`.

    import differseg_med as ds

    found = ds.segment("bundles/sts_petctmr_segmentation", t1="t1.nii.gz", ct="ct.nii.gz", pet="pet.nii.gz")
    found.volume_ml, found.mask.shape, found.findings

Nothing here prints or ends the process. Messages go to the logger ``differseg_med``.
"""

from differseg_med.api.cohorts import check, read_cohort, read_label, read_volume, scan
from differseg_med.api.folds import train_folds
from differseg_med.api.planning import plan
from differseg_med.api.release import release
from differseg_med.api.results import CohortResult, FoldsResult, Segmentation, TrainingResult
from differseg_med.api.runs import collect, compare, evaluate, evaluate_subsets, predict, segment, train
from differseg_med.bundles.description import describe
from differseg_med.errors import CaseError, ConfigError
from differseg_med.networks import DifferSeg
from differseg_med.planning.jobs import PlannedBundle

__all__ = [
    "CaseError",
    "CohortResult",
    "ConfigError",
    "DifferSeg",
    "FoldsResult",
    "PlannedBundle",
    "Segmentation",
    "TrainingResult",
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
