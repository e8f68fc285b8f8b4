"""``--dry-run``: everything that can stop a run, tried without computing anything."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from differseg_med.bundles.training import COUNTS, check_counts, check_precision
from differseg_med.case import Case, Cohort
from differseg_med.cohort.table import read_cohort
from differseg_med.cohort.usage import usage_lines
from differseg_med.errors import CaseError, ConfigError, os_problem, shown
from differseg_med.guard import protecting
from differseg_med.io.volumes import file_grid
from differseg_med.runs.folder import refuse_data
from differseg_med.runs.lock import holder
from differseg_med.runs.stamps import inputs_of
from differseg_med.training.preflight import refuse_leaks

BYTES_PER_VOXEL = 4
COPIES = 4
"""How many copies of a case's volumes are in memory at the most: read, resampled, stacked, and what comes out."""

_CHECKED = ("preprocessing", "inferer", "postprocessing", "writers", "train::samples", "train::loss")
"""Parts of a run, beside the network, that are made in a dry run too."""

THIN = 8
"""Fewer slices than this along an axis are remarked on before a training."""


@dataclass(frozen=True)
class RowPlan:
    """What a run is about to do.

    Args:
        cohort: its table.
        modalities: in the network's order.
        output_dir: where it writes.
        splits: which rows it uses; None for all.
        training: whether it trains; then labels are needed and subjects must be on one side.
        needs_label: whether a row without a label is of no use.
        pixdim: spacing in mm of the network's grid; None for the image's own.
        withhold: modalities that are left out although the table has them.
    """

    cohort: Path
    modalities: tuple[str, ...]
    output_dir: Path
    splits: tuple[str, ...] | None = None
    training: bool = False
    needs_label: bool = False
    pixdim: Sequence[float] | None = None
    withhold: Sequence[str] = ()

    @classmethod
    def of(cls, entries: Mapping[str, Any], kind: str) -> RowPlan:
        """From the resolved entries of a configuration: cohort, modalities, output_dir, split and pixdim."""
        split = entries.get("split")
        splits = None if not split else (split,) if isinstance(split, str) else tuple(split)
        training = kind == "train"
        return cls(
            Path(entries["cohort"]),
            tuple(entries["modalities"]),
            Path(entries["output_dir"]),
            ("train", "validation") if training else splits,
            training,
            training or kind == "evaluate",
            entries.get("pixdim"),
            entries.get("withhold") or (),
        )


def preflight_of(parser: Any, kind: str) -> list[str]:
    """`preflight` of a configuration: also builds the network, with its weights, and asks the device for memory.

    Args:
        parser: MONAI's, with the merged entries.
        kind: ``train``, ``evaluate`` or ``inference``.

    Raises:
        CaseError: as `preflight`, or if the device is not there.
    """
    names = ("cohort", "modalities", "output_dir", "split", "pixdim")
    entries = {name: parser.get_parsed_content(name) for name in names if name in parser}
    for name in ("split", "withhold"):
        if f"dataset::{name}" in parser:
            entries[name] = parser.get_parsed_content(f"dataset::{name}")
    _check_values(parser, kind)
    lines = preflight(RowPlan.of(entries, kind))
    device = parser.get_parsed_content("device")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).split("\n")[0]
        raise CaseError("this device cannot be used", found=f"{device}: {found}", remedy="Try --device cpu.") from error
    network = parser.get_parsed_content("network")
    for name in ("train::optimizer", "train::lr_scheduler"):
        if name in parser:
            parser.get_parsed_content(name)
    count = sum(parameter.numel() for parameter in network.parameters())
    return [*lines, f"network of {count / 1e6:.1f} million weights on {device}", "dry run: nothing was written"]


def _check_values(parser: Any, kind: str) -> None:
    """Make the parts that check what they are set to, and check what only the trainer would.

    Raises:
        ConfigError: for the first value that does not fit.
    """
    for name in _CHECKED:
        if name in parser:
            parser.get_parsed_content(name)
    given = {name: parser.get_parsed_content(name) for name in ("in_channels", "modalities") if name in parser}
    if len(given) == 2 and len(given["in_channels"]) != len(given["modalities"]):
        raise ConfigError(
            "in_channels does not fit the modalities",
            entry="in_channels",
            expected=f"a number for each of {', '.join(given['modalities'])}",
            found=given["in_channels"],
        )
    if kind == "train":
        names = [name for name in (*COUNTS, "amp") if f"train::trainer::{name}" in parser]
        values = {name: parser.get_parsed_content(f"train::trainer::{name}") for name in names}
        check_counts(**values)
        check_precision(values.get("amp", False), parser.get_parsed_content("device"))


def preflight(plan: RowPlan) -> list[str]:
    """Try what a run needs; what it would do, in lines.

    Raises:
        CaseError: for what would stop it: no row left, a subject on both sides, a folder that cannot be written or
            holds data.
    """
    cohort = read_cohort(plan.cohort, plan.modalities).withhold(plan.withhold)
    lines = usage_lines(cohort, plan.splits, needs_label=plan.needs_label)
    cases = [case for case in cohort.select(plan.splits) if case.problem is None and case.images]
    if plan.training:
        refuse_leaks(cohort)
        if not any(case.split == "validation" for case in cases):
            lines.append("no row is for validation: best.pt will be the average of the last epoch")
    if not cases:
        raise CaseError(
            "no row of the table can be used", file=cohort.path, found="; ".join(lines), remedy="Correct these rows."
        )
    lines += _folder(plan.output_dir, cohort, cases)
    return lines + list(_volumes(plan, cases))


def _folder(out: Path, cohort: Cohort, cases: Sequence[Case]) -> Iterator[str]:
    """Whether the output folder can be written, by whom it is held, and what is free."""
    with protecting(out, [cohort.path, *(path for case in cases for path in inputs_of(case))]):
        refuse_data(out, cases)
    if owner := holder(out):
        raise CaseError("another run is writing into this folder", file=out, found=f"process {owner.get('pid')}")
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise CaseError("the output folder is a file, or lies below one", file=existing, remedy="Choose another --out.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise os_problem(error) from error
    yield f"{shown(out)}: can be written, {shutil.disk_usage(existing).free / 1e9:.1f} GB are free"


def _volumes(plan: RowPlan, cases: Sequence[Case]) -> Iterator[str]:
    """The largest case against the memory, and the thinnest; cases whose headers cannot be read."""
    sizes: dict[str, tuple[float, int]] = {}
    unreadable = []
    for case in cases:
        try:
            grids = [file_grid(cell) for cell in case.images.values()]
        except CaseError as error:
            unreadable.append(str(error.for_case(case.case_id)))
            continue
        reference = grids[0]
        extent = np.array(reference.shape) * np.array(reference.spacing_mm)
        shape = extent / np.array(plan.pixdim) if plan.pixdim is not None else np.array(reference.shape)
        voxels = sum(float(np.prod(grid.shape)) for grid in grids) + float(np.prod(shape)) * len(plan.modalities)
        sizes[case.case_id] = (voxels * BYTES_PER_VOXEL * COPIES / 1e9, int(min(shape)))
    yield from (f"cannot be read: {text}" for text in unreadable)
    if not sizes:
        return
    largest = max(sizes, key=lambda case_id: sizes[case_id][0])
    needed = sum(size for size, _ in sizes.values()) / COPIES * 2 if plan.training else sizes[largest][0]
    free = _free_memory()
    whole = "all cases in memory need" if plan.training else f"the largest case ({largest}) needs"
    yield f"{whole} about {needed:.1f} GB" + (f" of {free:.1f} GB that are free" if free else "")
    if free and needed > free:
        yield "that is more than there is: close other programs, or choose a coarser pixdim"
    thinnest = min(sizes, key=lambda case_id: sizes[case_id][1])
    if plan.training and sizes[thinnest][1] < THIN:
        yield f"the thinnest case ({thinnest}) has {max(sizes[thinnest][1], 1)} slices along an axis"


def _free_memory() -> float:
    """Free memory in GB; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, ValueError, OSError):
        return 0.0
