"""Rigid registration of one modality to another, and bias field correction, through SimpleITK.

A rigid motion needs no new voxels: it changes the affine of the moving image. So nothing is interpolated here; the one
interpolation of a case stays the one onto the network's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import SimpleITK as sitk

from differseg_med.geometry import FloatArray, lps_to_ras, ras_to_lps
from differseg_med.io.itk import as_image, as_voxels
from differseg_med.metrics.similarity import Alignment, measure_alignment

SAMPLING_SEED = 0
SAMPLES = 100_000
"""Voxels of the fixed image that the metric looks at, drawn at random with `SAMPLING_SEED`."""

SMOOTH_MM = (4.0, 2.0)
"""Smoothing, and about the voxels, of the coarse and the fine search."""
N4_SHRINK = 4
"""Factor by which N4 makes an image smaller before it estimates the field, which is smooth anyway."""


@dataclass(frozen=True)
class Registration:
    """A rigid motion that brings the moving image onto the fixed one.

    Args:
        transform: from points of the fixed image to points of the moving image, LPS mm, as ITK has it (``.tfm``).
        affine: RAS affine with which the moving image's voxels lie on the fixed image.
        moved_mm: how far the center of the moving image goes.
        turned_degrees: by what angle it is turned.
        metric_before: Mattes mutual information (higher is better) at the start.
        metric_after: the same at the end.
        refined: whether the search by Mattes mutual information is in it; else it is the shift of `before` alone.
        before: how the images lay, if they have enough in common to tell.
        after: how they lie now.
    """

    transform: sitk.Euler3DTransform
    affine: FloatArray
    moved_mm: float
    turned_degrees: float
    metric_before: float
    metric_after: float
    refined: bool
    before: Alignment | None
    after: Alignment | None

    def describe(self) -> str:
        """The motion and what it gained, in words."""
        return (
            f"moved by {self.moved_mm:.1f} mm and turned by {self.turned_degrees:.1f} degrees; "
            f"mutual information {self.metric_before:.3f} before, {self.metric_after:.3f} after"
            + ("" if self.refined else "; a shift in steps, as the fine search found nothing better")
        )


class Method(str, Enum):
    """Transforms to use."""

    RIGID = "rigid"
    TRANSLATION = "translation"


def register(
    fixed: sitk.Image, moving: sitk.Image, moving_affine: FloatArray, method: Method = Method.RIGID
) -> Registration:
    """Find the rigid motion with the highest Mattes mutual information, starting where the images look most alike.

    The optimisation is lost now and then, in fields of view of a few centimetres more often than not. So its result is
    taken only if the images look more alike than after the shift that it started from, by both figures of `Alignment`.

    Args:
        fixed: the reference modality; it stays where it is.
        moving: the other modality, on any grid.
        moving_affine: its RAS affine.
        method: ``TRANSLATION`` does not turn: for fields of view of a few centimetres, where little tells a turn.

    Raises:
        RuntimeError: of SimpleITK, if the images do not overlap enough.
    """
    fixed, moving = (sitk.Cast(image, sitk.sitkFloat32) for image in (fixed, moving))
    voxels = as_voxels(moving)[0]

    def similarity(transform: sitk.Euler3DTransform) -> Alignment | None:
        return measure_alignment(fixed, as_image(voxels, moved_affine(transform, moving_affine)))

    still = sitk.Euler3DTransform()
    still.SetCenter(_center(moving))
    before = measure_alignment(fixed, moving)
    shifted = sitk.Euler3DTransform(still)
    if before is not None:
        right, front, up = before.shift_mm
        shifted.SetTranslation((right, front, -up))  # LPS, from the fixed image's points to the moving one's
    coarse = similarity(shifted)
    optimised = _descend(fixed, moving, shifted, method)
    fine = similarity(optimised)
    refined = _better(fine, coarse)
    transform, after = (optimised, fine) if refined else (shifted, coarse)
    center = np.array(_center(moving))
    moved = np.array(transform.GetInverse().TransformPoint(center.tolist())) - center
    angle = np.arccos(np.clip((np.trace(np.array(transform.GetMatrix()).reshape(3, 3)) - 1) / 2, -1, 1))
    return Registration(
        transform,
        moved_affine(transform, moving_affine),
        float(np.linalg.norm(moved)),
        float(np.degrees(angle)),
        _metric(still, fixed, moving),
        _metric(transform, fixed, moving),
        refined,
        before,
        after,
    )


def _better(fine: Alignment | None, coarse: Alignment | None) -> bool:
    if fine is None or fine.off:
        return False
    return coarse is None or (fine.here >= coarse.here and fine.edges_here >= coarse.edges_here)


def _descend(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform, method: Method
) -> sitk.Euler3DTransform:
    """Gradient descent on Mattes mutual information."""
    transform = sitk.Euler3DTransform(start)
    search = _search(fixed)
    if method is Method.TRANSLATION:
        search.SetOptimizerWeights([0, 0, 0, 1, 1, 1])
    search.SetInitialTransform(transform, inPlace=True)
    search.Execute(fixed, moving)
    return transform


def moved_affine(transform: sitk.Euler3DTransform, affine: FloatArray) -> FloatArray:
    """The RAS affine of a moving image after a transform that maps fixed points to moving points (LPS)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return lps_to_ras(np.linalg.inv(matrix) @ ras_to_lps(affine))


def correct_bias(image: sitk.Image) -> sitk.Image:
    """MR without its slow shading (N4), on the same grid; 0 stays 0. The field is estimated on a smaller copy.

    Args:
        image: MR image; what is 0 or less is taken as background.
    """
    image = sitk.Cast(image, sitk.sitkFloat32)
    mask = sitk.Cast(image > 0, sitk.sitkUInt8)
    factors = [min(N4_SHRINK, max(1, n // 8)) for n in image.GetSize()]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = sitk.Exp(corrector.GetLogBiasFieldAsImage(image))
    return image / sitk.Cast(field, sitk.sitkFloat32)


def _search(fixed: sitk.Image) -> sitk.ImageRegistrationMethod:
    search = sitk.ImageRegistrationMethod()
    search.SetMetricAsMattesMutualInformation(32)
    search.SetMetricSamplingStrategy(search.RANDOM)
    search.SetMetricSamplingPercentage(min(1.0, SAMPLES / fixed.GetNumberOfPixels()), SAMPLING_SEED)
    search.SetInterpolator(sitk.sitkLinear)
    search.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.01, numberOfIterations=200, gradientMagnitudeTolerance=1e-6
    )
    search.SetOptimizerScalesFromPhysicalShift()
    voxel_mm = float(np.prod(fixed.GetSpacing())) ** (1 / 3)
    search.SetShrinkFactorsPerLevel([max(1, round(mm / voxel_mm)) for mm in SMOOTH_MM])
    search.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    search.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return search


def _metric(transform: sitk.Euler3DTransform, fixed: sitk.Image, moving: sitk.Image) -> float:
    """Mattes mutual information under a transform, higher is better (ITK minimizes its negative)."""
    search = _search(fixed)
    search.SetInitialTransform(sitk.Euler3DTransform(transform), inPlace=False)
    return -float(search.MetricEvaluate(fixed, moving))


def _center(image: sitk.Image) -> tuple[float, ...]:
    middle = [(n - 1) / 2 for n in image.GetSize()]
    return tuple(image.TransformContinuousIndexToPhysicalPoint(middle))
