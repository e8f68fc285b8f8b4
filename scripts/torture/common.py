"""Tiny cohorts, hashes of trees, and runs that are known."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from support.synthetic import MODALITIES, ThresholdCenter, row_of, write_case, write_table

from differseg_med.bundles.factories import (
    CohortEvaluator,
    case_loader,
    cohort_dataset,
    format_writers,
    postprocessing,
    preprocessing,
)
from differseg_med.inferers import SliceWindowInferer

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "sts_petctmr_segmentation"


def cohort(folder: Path, ids: str | list[str] = "ab", split: str = "test") -> Path:
    """A table of tiny cases, ``cohort.csv``."""
    table = folder / "cohort.csv"
    rows = [row_of(c, write_case(folder / c, seed=n), table, split=split) for n, c in enumerate(ids)]
    return write_table(table, rows)


def evaluator(table: Path, out: Path, **settings: Any) -> CohortEvaluator:
    """A run with a network whose masks are known; ``settings`` replace any of its parts."""
    given = {
        "modalities": MODALITIES, "reference": "t1", "pixdim": None, "roi_size": (24, 24), "threshold": 0.5,
        "resume": False, "withhold": (), "formats": (), "inference": {}, "after": {}, "network": None,
        "shard": None, "jobs": 1, **settings,
    }  # fmt: skip
    transform = preprocessing(given["modalities"], given["reference"], given["pixdim"])
    dataset = cohort_dataset(
        table,
        given["modalities"],
        transform,
        withhold=given["withhold"],
        output_dir=out,
        resume=given["resume"],
        shard=given["shard"],
    )
    return CohortEvaluator(
        device=torch.device("cpu"),
        val_data_loader=case_loader(dataset, jobs=given["jobs"]),
        network=given["network"] or ThresholdCenter(threshold=0.7),
        inferer=SliceWindowInferer(given["roi_size"], sw_batch_size=16, **given["inference"]),
        postprocessing=postprocessing(given["threshold"], **given["after"]),
        output_dir=out,
        reference=given["reference"],
        evaluate=given.get("evaluate", False),
        amp=given.get("amp", False),
        fingerprint=given.get("fingerprint"),
        writers=format_writers(given["formats"], BUNDLE),
    )


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a tree."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def results(folder: Path) -> dict[str, str]:
    """Hashes of the results in a folder, without the times in ``run.json``, ``summary.csv`` and the heads of pages."""
    found = {name: digest for name, digest in hashes(folder).items() if not name.startswith("cache/")}
    for name in found:
        text = (folder / name).read_bytes()
        if name.endswith("run.json"):
            steps = json.loads(text)["steps"]
            kept = {k: {n: v for n, v in s.items() if n in ("settings", "results", "state")} for k, s in steps.items()}
            found[name] = json.dumps(kept, sort_keys=True)
        elif name.endswith(".html"):  # the head of a page says when it was made, and by which command
            timeless = re.sub(rb"Date.*?Versions|put together in [0-9.]+ s", b"", text, flags=re.DOTALL)
            found[name] = hashlib.sha256(timeless).hexdigest()
        elif name.endswith("summary.csv"):
            found[name] = re.sub(rb",\d+\.\d\d,", b",,", text).decode()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
