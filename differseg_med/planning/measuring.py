"""Measure the training cases of a cohort: one pass, one case in memory at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from differseg_med.case import Case, Cohort, run_for_case
from differseg_med.components import component_sizes, foreground_box
from differseg_med.errors import CaseError
from differseg_med.geometry import FloatArray, Grid, almost_same_grid
from differseg_med.io.dicom.cells import split_cell
from differseg_med.io.images2d import IMAGES
from differseg_med.io.itk import as_image
from differseg_med.io.labels import load_case_label
from differseg_med.io.volumes import load_volume
from differseg_med.metrics.similarity import measure_alignment
from differseg_med.modality import is_judged
from differseg_med.planning.fingerprint import GREY_PERCENTILES, Fingerprint, LabelFacts, ModalityFacts, Spread
from differseg_med.transforms.grids import grid_of

logger = logging.getLogger(__name__)

POINTS = 20_000
"""Voxels of the body, and of the target, whose grey values are looked at in each image."""

COMPARED_CASES = 6
"""Pairs of images that are compared with each other, case by case until there are so many: two seconds per pair."""

AIR_HU = -500.0
"""Below this a voxel of a CT is air."""

CaseProgress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class ImageMeasures:
    """Of one image: grid, body's box along R, A, S in mm, grey values (samples), noise."""

    grid: Grid
    extent_mm: FloatArray
    middle_r_mm: float
    body: NDArray[np.float32]
    foreground: NDArray[np.float32]
    noise: float
    on_label_grid: bool


@dataclass(frozen=True)
class CaseMeasures:
    """Of one case: its images, and its target (no volume: it is empty)."""

    case: Case
    images: Mapping[str, ImageMeasures]
    volume_ml: float
    sizes_mm3: tuple[float, ...] = ()
    slice_share: float = 0.0
    middle_r_mm: float = 0.0
    seconds: float = 0.0


def training_cases(cohort: Cohort) -> list[Case]:
    """The cases to plan for: those of split "train", and of "validation" where they have a fold, as others' training
    has them then; of a table without "train", all with a label but those of "test".

    Raises:
        CaseError: if there is none, or one, or a modality that no case has.
    """
    if cohort.problem is not None:
        raise cohort.problem
    rows = [case for case in cohort.cases if case.problem is None and case.label is not None and case.images]
    told = any(case.split == "train" for case in cohort.cases)
    cases = [
        case
        for case in rows
        if case.split == "train" or (case.fold and case.split == "validation") or not (told or case.split == "test")
    ]
    if len(cases) < 2:
        raise CaseError(
            "there is one training case" if cases else "there is no training case",
            file=cohort.path,
            expected="at least two rows with images and a label, of split train or of none",
            found=f"{len(cohort.cases)} rows, {len(rows)} with images and a label",
            remedy="Fill in the columns label and split: a plan needs one case to learn from and one to check with.",
        )
    for name in cohort.modalities:
        if not any(name in case.images for case in cases):
            others = ",".join(other for other in cohort.modalities if other != name)
            raise CaseError(
                f"no training case has {name!r}",
                file=cohort.path,
                expected="at least one case with it",
                found=f"{len(cases)} blank entries",
                remedy=f"Fill in the column, or leave it out: --modalities {others}.",
            )
    return cases


def measure_cohort(cohort: Cohort, cases: Sequence[Case], progress: CaseProgress = iter) -> Fingerprint:
    """Measure the cases; those that cannot be read are told and left out.

    Args:
        cohort: the table, whose kinds are known.
        cases: see `training_cases`.
        progress: wraps the cases.

    Raises:
        CaseError: if fewer than two can be read, all labels are empty, or 2-D images and volumes are mixed.
    """
    measured, problems, pairs = list[CaseMeasures](), list[CaseError](), list[tuple[float, bool]]()
    for case in progress(cases):
        try:
            measured.append(run_for_case(lambda c: _measured(c, pairs), case, case))
        except CaseError as error:
            logger.warning("left out of the plan: %s", error)
            problems.append(error)
    if len(measured) < 2:
        raise problems[0] if problems else CaseError("no case can be measured", file=cohort.path)
    flat = _one_dimension(cohort, measured)
    drawn = [case for case in measured if case.volume_ml > 0]
    if not drawn:
        raise CaseError(
            "the labels of all training cases are empty",
            file=cohort.path,
            expected="some voxels of the target",
            found=f"{len(measured)} empty labels",
            remedy="Look at the column label: another file, ROI or value (PATH::1) may be meant.",
        )
    off = [shift for shift, is_off in pairs if is_off]
    return Fingerprint(
        len(measured),
        len({case.case.subject_id for case in measured}),
        flat,
        all(image.grid.shape[_slice_axis(image.grid)] == 1 for case in measured for image in case.images.values()),
        {name: _modality(name, cohort.kinds[name], measured) for name in cohort.modalities},
        _label(drawn, len(measured) - len(drawn)),
        sum(len(case.images) < len(cohort.modalities) for case in measured),
        (len(pairs), len(off)),
        max(off, default=0.0),
        float(np.mean([case.seconds for case in measured])),
        len(problems),
    )


def _one_dimension(cohort: Cohort, measured: Sequence[CaseMeasures]) -> bool:
    """Whether the cases are 2-D images; a table has one sort."""
    sorts: dict[bool, str] = {}
    for case in measured:
        for cell in case.case.images.values():
            sorts.setdefault(split_cell(cell)[0].name.lower().endswith(IMAGES), case.case.case_id)
    if len(sorts) > 1:
        raise CaseError(
            "the table mixes 2-D images and volumes",
            file=cohort.path,
            expected="one of the two in all rows",
            found=f"a 2-D image in case {sorts[True]}, a volume in case {sorts[False]}",
            remedy="Plan a bundle for each: two tables.",
        )
    return next(iter(sorts))


def _measured(case: Case, pairs: list[tuple[float, bool]]) -> CaseMeasures:
    """Measure a case, and add to ``pairs`` how far apart its images lie as long as they are few."""
    start = time.perf_counter()
    label = load_case_label(case)
    mask, label_grid = np.asarray(label[0]) > 0, grid_of(label)
    random = np.random.default_rng(0)
    points = _sampled(np.argwhere(mask), random)
    world = label_grid.world(points) if len(points) else np.zeros((0, 3))
    volumes: dict[str, MetaTensor] = {name: load_volume(cell) for name, cell in case.images.items()}
    images = {
        name: _image(volume, case.kinds.get(name, ""), world, label_grid, random) for name, volume in volumes.items()
    }
    seconds = time.perf_counter() - start
    if len(pairs) < COMPARED_CASES:
        _compare(volumes, case.kinds, pairs)
    sizes = tuple(size * label_grid.voxel_volume_mm3 for size in component_sizes(mask))
    slices = np.moveaxis(mask, _slice_axis(label_grid), 0).reshape(mask.shape[_slice_axis(label_grid)], -1)
    share = float(mask.sum()) / max(int(slices.any(axis=1).sum()) * slices.shape[1], 1)
    return CaseMeasures(
        case,
        images,
        sum(sizes) / 1000,
        sizes,
        share,
        float(world[:, 0].mean()) if len(world) else 0.0,
        seconds,
    )


def _image(
    volume: MetaTensor, kind: str, world: FloatArray, label_grid: Grid, random: np.random.Generator
) -> ImageMeasures:
    voxels, grid = np.asarray(volume.mean(dim=0), dtype=np.float32), grid_of(volume)
    known = np.isfinite(voxels)
    inside = known & ((voxels > AIR_HU) if kind in ("ct", "cbct") else (voxels != 0))
    inside = inside if inside.any() else known
    box = foreground_box(inside)
    assert box is not None, "the reader refuses images without any data"
    corners = grid.world(np.array([[s.start, s.stop][bit] for bit in (0, 1) for s in box]).reshape(2, 3) - 0.5)
    extent = np.array([(s.stop - s.start) * mm for s, mm in zip(box, grid.spacing_mm)])[_ras(grid)]
    places = np.rint(apply_affine(np.linalg.inv(grid.affine), world)).astype(int)
    places = places[((places >= 0) & (places < grid.shape)).all(axis=1)]
    target = voxels[tuple(places.T)]
    return ImageMeasures(
        grid,
        extent,
        float(corners[:, 0].mean()),
        voxels[tuple(_sampled(np.argwhere(inside), random).T)],
        target[np.isfinite(target)],
        _noise(voxels, inside),
        almost_same_grid(grid, label_grid),
    )


def _noise(voxels: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """From differences of neighbours along the first axis: robust against edges."""
    step = np.diff(voxels, axis=0)[inside[1:] & inside[:-1]]
    return float(np.median(np.abs(step)) / 0.6745 / np.sqrt(2)) if step.size else 0.0


def _sampled(points: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    return points if len(points) <= POINTS else points[random.choice(len(points), POINTS, replace=False)]


def _compare(volumes: Mapping[str, MetaTensor], kinds: Mapping[str, str], pairs: list[tuple[float, bool]]) -> None:
    for a, b in combinations(volumes, 2):
        if is_judged(kinds.get(a), kinds.get(b)):
            grids = {name: grid_of(volumes[name]) for name in (a, b)}
            images = [as_image(np.asarray(volumes[name][0]), grids[name].affine) for name in (a, b)]
            if (found := measure_alignment(*images)) is not None:
                pairs.append((found.distance_mm, found.off))


def _ras(grid: Grid) -> list[int]:
    """Which axis of the file runs along R, A and S."""
    codes = ["LR", "PA", "IS"]
    return [next(i for i, code in enumerate(grid.axcodes) if code in pair) for pair in codes]


def _slice_axis(grid: Grid) -> int:
    """The axis of the file across the slices: that of the coarsest voxels, of equals the one with the fewest."""
    return max(range(3), key=lambda axis: (round(grid.spacing_mm[axis], 2), -grid.shape[axis]))


def _modality(name: str, kind: str, measured: Sequence[CaseMeasures]) -> ModalityFacts:
    images = [case.images[name] for case in measured if name in case.images]
    spacing = np.array([np.array(image.grid.spacing_mm)[_ras(image.grid)] for image in images])
    extent = np.array([image.extent_mm for image in images])
    body = {f"p{p:g}": float(np.median([np.percentile(i.body, p) for i in images])) for p in GREY_PERCENTILES}
    body |= {"mean": float(np.median([i.body.mean() for i in images]))}
    body |= {"std": float(np.median([i.body.std() for i in images]))}
    target = np.concatenate([image.foreground for image in images])
    foreground = {f"p{p:g}": float(np.percentile(target, p)) for p in GREY_PERCENTILES} if target.size else {}
    zscore, percentile = _varies([image for image in images if image.foreground.size])
    return ModalityFacts(
        kind,
        len(images),
        sum(image.on_label_grid for image in images),
        _spreads(spacing),
        _spreads(extent),
        Spread.of([float(np.prod(image.grid.extent_mm)) / 1000 for image in images]),
        body,
        foreground,
        float(np.median([image.noise for image in images])),
        zscore,
        percentile,
    )


def _spreads(values: FloatArray) -> tuple[Spread, Spread, Spread]:
    """Of ``(cases, 3)``, along R, A, S."""
    right, front, up = (Spread.of(column) for column in values.T.tolist())
    return right, front, up


def _varies(images: Sequence[ImageMeasures]) -> tuple[float | None, float | None]:
    """How far apart the targets of the cases lie on either scale, in standard deviations of the body on it."""
    if len(images) < 3:
        return None, None
    medians = np.array([np.median(image.foreground) for image in images])
    stds = np.array([max(float(image.body.std()), 1e-6) for image in images])
    zscores = (medians - [float(image.body.mean()) for image in images]) / stds
    tops = np.array([max(float(np.percentile(image.body, 99)), 1e-6) for image in images])
    return float(zscores.std()), float((medians / tops).std() / np.median(stds / tops))


def _label(drawn: Sequence[CaseMeasures], empty: int) -> LabelFacts:
    references = [next(iter(case.images.values())) for case in drawn]
    widths = [max(float(image.extent_mm[0]), 1e-6) for image in references]
    offsets = [(case.middle_r_mm - image.middle_r_mm) / width for case, image, width in zip(drawn, references, widths)]
    return LabelFacts(
        empty,
        Spread.of([case.volume_ml for case in drawn]),
        Spread.of([len(case.sizes_mm3) for case in drawn]),
        Spread.of([max(case.sizes_mm3) / sum(case.sizes_mm3) for case in drawn]),
        Spread.of([_diameter_mm(case.sizes_mm3) for case in drawn]),
        Spread.of([case.slice_share for case in drawn]),
        sum(offset > 0 for offset in offsets),
        float(np.median(np.abs(offsets))),
    )


def _diameter_mm(sizes_mm3: Sequence[float]) -> float:
    """Diameter of the component at which 10 % of the volume is reached, the small ones first."""
    ordered = np.sort(np.array(sizes_mm3))
    index = int(np.searchsorted(np.cumsum(ordered), 0.1 * ordered.sum()))
    return float((6 * ordered[index] / np.pi) ** (1 / 3))
