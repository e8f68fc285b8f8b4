"""What comes with the package to try it on: the sarcoma bundle with its sample patients, and the presets."""

from __future__ import annotations

import shutil
from pathlib import Path

from differseg_med.errors import CaseError

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
SAMPLE = "bundles/sts_petctmr_segmentation"
SHIPPED = (SAMPLE, "configs")
"""Folders, as the repository has them; a wheel has them below ``differseg_med/shipped``."""


def shipped_folder() -> Path:
    """Where the folders of `SHIPPED` lie: in an installed package beside its code, in a checkout at its root.

    Raises:
        CaseError: if they lie at neither place.
    """
    for folder in (PACKAGE_FOLDER / "shipped", PACKAGE_FOLDER.parent):
        if all((folder / name).is_dir() for name in SHIPPED):
            return folder
    raise CaseError("this installation has no sample", remedy="Install the package from its wheel, or use a checkout.")


def copy_sample(out: str | Path) -> Path:
    """Copy bundle, sample patients and presets into a folder.

    Args:
        out: the folder; files that are there already are refused, never replaced.

    Returns:
        The bundle in that folder.

    Raises:
        CaseError: if a folder of the sample is there already.
    """
    source, out = shipped_folder(), Path(out)
    for name in SHIPPED:
        if (out / name).exists():
            raise CaseError("the sample is there already", file=out / name, remedy="Choose another folder for --out.")
    for name in SHIPPED:
        shutil.copytree(source / name, out / name)
    return out / SAMPLE
