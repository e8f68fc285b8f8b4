"""Names of the files that a run keeps of itself."""

from __future__ import annotations

MANIFEST = "run.json"
"""What made the results of a folder, see `differseg_med.runs.manifest`."""

SHARDS = "shards"
"""Folder inside an output folder with the shards of a run until they are collected, see `differseg_med.runs.shards`."""

EARLIER = "earlier_runs"
"""Folder inside an output folder, to which the results of the run before are moved."""
