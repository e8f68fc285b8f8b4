"""Which files of a tree are results of this program: a prediction is no expert's label."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from differseg_med.runs.manifest import read_steps
from differseg_med.runs.names import EARLIER, MANIFEST

RESULTS = ("overlays", "derivatives", EARLIER)
"""Folders of an output folder beside those of the cases."""


class OwnResults:
    """Tells the results in a tree by the manifests that lie in it.

    Args:
        root: folder of the tree.
    """

    def __init__(self, root: str | Path) -> None:
        self.folders: set[str] = set()
        self.files: set[str] = set()
        for folder in _with_manifest(Path(root)):
            steps = read_steps(folder)
            for name, step in steps.items():
                self.files |= {str(folder / result) for result in step.results} if name == "export" else set()
                if name == "predict":
                    self.folders |= {str(folder / case) for case in (*step.inputs, *RESULTS)}

    def __contains__(self, path: Path) -> bool:
        return str(path) in self.files or any(str(parent) in self.folders for parent in (path, *path.parents))


def _with_manifest(root: Path) -> Iterator[Path]:
    """The folder itself, those below, and those above: a case's folder may be scanned alone."""
    yield from (parent for parent in root.absolute().parents if (parent / MANIFEST).is_file())
    for folder, _, names in os.walk(root.absolute()):
        if MANIFEST in names:
            yield Path(folder)
