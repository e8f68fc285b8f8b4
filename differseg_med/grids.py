"""Do the images of one case belong together? Their grids against the reference modality's, in words with numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from differseg_med.errors import CaseError, Finding, Level
from differseg_med.geometry import (
    Grid,
    almost_same_grid,
    check_affine,
    describe,
    grid_distance_mm,
    overlap_fraction,
    rotation_degrees,
    same_grid,
)

LITTLE_OVERLAP = 0.5
"""Share of the reference's field of view under which a modality gets a warning: it says nothing about the rest."""

NO_OVERLAP = 0.005
"""Share of the smaller field of view that still counts as none: touching boxes and the error of measurement."""

_FIX_HEADER = "Convert the original DICOM series again, or repair the header, then run the check again."
_FIX_SPACE = (
    "Check that the files belong to the same patient and examination; if they do, register them to the reference first."
)


def audit_grids(
    grids: Mapping[str, Grid],
    reference: str,
    *,
    case: str | None = None,
    files: Mapping[str, str | Path] | None = None,
) -> list[Finding]:
    """Compare the grid of each present modality with the reference's.

    Args:
        grids: one grid per present modality, in declared order; a label may be among them.
        reference: the modality on whose grid the mask will be.
        case: case id for the findings.
        files: the file of each modality for the findings; may be incomplete.

    Returns:
        One finding per grid, in the order of ``grids``.

    Raises:
        KeyError: if ``reference`` is not among the grids.
    """
    target = grids[reference]
    target_problem = check_affine(target.affine)
    findings = []
    for modality, grid in grids.items():
        level, message, remedy = _judge_affine(grid)
        if level == "ok" and modality == reference:
            message = f"reference grid: {describe(grid)}"
        elif level == "ok" and target_problem:
            message = "not compared: the reference's own grid is broken"
        elif level == "ok":
            level, message, remedy = _judge_pair(grid, target, reference)
        file = (files or {}).get(modality)
        findings.append(
            Finding(level, message, remedy, case=case, column=modality, file=None if file is None else Path(file))
        )
    return findings


def raise_on_errors(findings: Iterable[Finding]) -> None:
    """Stop a case that has findings of level error.

    Raises:
        CaseError: with the case, the file and the remedy of the first error, and the messages of all.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        problem = "; ".join(f"{finding.column}: {finding.text}" for finding in errors)
        first = errors[0]
        raise CaseError(problem, case=first.case, file=first.file, remedy=first.remedy)


def _judge_affine(grid: Grid) -> tuple[Level, str, str]:
    problem = check_affine(grid.affine)
    return ("error", problem, _FIX_HEADER) if problem else ("ok", "", "")


def _judge_pair(grid: Grid, target: Grid, reference: str) -> tuple[Level, str, str]:
    distance = grid_distance_mm(grid, target)
    if same_grid(grid, target):
        return "ok", f"same grid as {reference}", ""
    if almost_same_grid(grid, target):
        return "ok", f"treated as the grid of {reference}: voxels are at most {distance:.3f} mm apart", ""
    covered, used = overlap_fraction(target, grid), overlap_fraction(grid, target)
    if max(covered, used) < NO_OVERLAP:
        gap = _distance_of_centers(grid, target)
        message = f"does not overlap {reference}: the centers of the fields of view are {gap:.0f} mm apart"
        return "error", message, _FIX_SPACE
    facts = f"{describe(grid)}, turned by {rotation_degrees(grid, target):.1f} degrees"
    percent = f"{covered:.0%}" if covered >= 0.01 else "less than 1%"
    shares = f"covers {percent} of the field of view of {reference}"
    if covered < LITTLE_OVERLAP:
        gap = _distance_of_centers(grid, target)
        message = f"{shares} only, the centers are {gap:.0f} mm apart ({facts}); resampled, zero outside"
        return "warning", message, _FIX_SPACE
    return "ok", f"same space, other grid ({facts}): resampled; {shares}", ""


def _distance_of_centers(a: Grid, b: Grid) -> float:
    offset = a.corners().mean(axis=0) - b.corners().mean(axis=0)
    return float((offset @ offset) ** 0.5)
