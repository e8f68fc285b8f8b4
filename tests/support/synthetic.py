"""Tiny cases as real files: any orientation, anisotropic or oblique, PET on a grid of its own; helpers, not tests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.eulerangles import euler2mat
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from torch import Tensor, nn

from differseg_med.bundles.workflows import Workflow
from differseg_med.networks import DifferSeg

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
ORIENTATIONS = [
    "".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)
]  # 6 orders x 8 signs = 48
T1_SHAPE, PET_SHAPE = (24, 20, 10), (10, 9, 12)
T1_SPACING, PET_SPACING = (1.5, 1.7, 3.1), (4.1, 4.3, 2.9)
OBLIQUE = (20.0, -10.0, 5.0)
MODALITIES = {
    "t1": {"kind": "mr", "percentile": 99},
    "ct": {"kind": "ct", "window": [-160, 240]},
    "pet": {"kind": "pet"},
}
COLUMNS = ("case_id", "subject_id", "t1", "ct", "pet", "label", "split", "fold")


@dataclass(frozen=True)
class Volume:
    """Voxels ``(i, j, k)`` and their affine (RAS, mm)."""

    data: np.ndarray
    affine: np.ndarray

    def world(self, index: np.ndarray) -> np.ndarray:
        """World positions (N, 3) of voxel indices (N, 3)."""
        return nib.affines.apply_affine(self.affine, index)

    def foreground(self) -> np.ndarray:
        """World positions (N, 3) of the voxels that are not zero, in an order that no storage changes."""
        points = self.world(np.argwhere(self.data)).round(3) + 0.0
        return points[np.lexsort(points.T)]


def affine_of(
    spacing: Sequence[float] = T1_SPACING,
    origin: Sequence[float] = (-31.0, 40.0, -722.0),
    angles: Sequence[float] = (0, 0, 0),
) -> np.ndarray:
    """A RAS affine turned by Euler angles (z, y, x, degrees) about its first voxel."""
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*np.radians(angles)) * spacing
    affine[:3, 3] = origin
    return affine


def stored_as(volume: Volume, codes: str) -> Volume:
    """The same voxels in the same places, stored along other axes (``"LPS"``), for a volume with RAS axes."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return Volume(apply_orientation(volume.data, turn), volume.affine @ inv_ornt_aff(turn, volume.data.shape))


def write_nifti(path: Path, volume: Volume, dtype: Any = np.float32) -> Path:
    """Save with sform and qform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.data.astype(dtype), volume.affine), path)
    return path


def read_nifti(path: Path) -> Volume:
    """Load with nibabel, the foreign reader."""
    image = nib.load(path)
    return Volume(np.asarray(image.dataobj), image.affine)


def label_volume(angles: Sequence[float] = (0, 0, 0)) -> Volume:
    """A target without any symmetry, off the centre, on the grid of the T1."""
    data = np.zeros(T1_SHAPE)
    data[4:13, 9:16, 3:8] = 1
    data[9:13, 5:9, 3:6] = 1
    data[4:6, 9:11, 8] = 1
    return Volume(data, affine_of(angles=angles))


def tumour_images(angles: Sequence[float] = (0, 0, 0), seed: int = 0) -> dict[str, Volume]:
    """T1, CT, PET and label with RAS axes: T1 is 300 in the target, 80 to 120 elsewhere; PET a hot ball."""
    rng = np.random.default_rng(seed)
    label = label_volume(angles)
    t1 = np.where(label.data > 0, 300.0, rng.uniform(80, 120, T1_SHAPE))
    ct = np.where(label.data > 0, 60.0, rng.uniform(-100, 0, T1_SHAPE))
    center = label.foreground().mean(axis=0)
    corner = label.world(np.array([[-1.0, -1.0, -1.0]]))[0]
    pet_affine = affine_of(PET_SPACING, corner, angles)
    index = np.stack(np.meshgrid(*map(np.arange, PET_SHAPE), indexing="ij"), axis=-1)
    distance = np.linalg.norm(nib.affines.apply_affine(pet_affine, index) - center, axis=-1)
    pet = 0.5 + 9.0 * np.exp(-((distance / 9.0) ** 2))
    return {
        "t1": Volume(t1, label.affine),
        "ct": Volume(ct, label.affine),
        "pet": Volume(pet, pet_affine),
        "label": label,
    }


def write_case(
    folder: Path, codes: str = "LPS", angles: Sequence[float] = (0, 0, 0), pet_codes: str = "LPS", seed: int = 0
) -> dict[str, Path]:
    """Files of one case: ``t1, ct, pet, label``; all but the PET stored along ``codes``."""
    images = tumour_images(angles, seed)
    return {
        name: write_nifti(
            folder / f"{name}.nii.gz",
            stored_as(volume, pet_codes if name == "pet" else codes),
            np.uint8 if name == "label" else np.float32,
        )
        for name, volume in images.items()
    }


def row_of(case_id: str, files: Mapping[str, Path], table: Path, **others: str) -> dict[str, str]:
    """A row of the cohort table with paths relative to it."""
    cells = {name: path.relative_to(table.parent).as_posix() for name, path in files.items()}
    return {"case_id": case_id, **cells, **others}


def write_table(
    path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS, delimiter: str = ","
) -> Path:
    """Write a cohort table as a spreadsheet would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_split_cohort(
    folder: Path,
    splits: Sequence[str] = ("train", "train", "validation"),
    blank: Mapping[str, str] | None = None,
) -> Path:
    """Cases a, b, c and so on with files and these splits; ``blank`` names a column that a case lacks."""
    table = folder / "cohort.csv"
    rows = []
    for i, split in enumerate(splits):
        case = chr(ord("a") + i)
        row = row_of(case, write_case(folder / case, seed=i), table, split=split)
        rows.append(row | ({blank[case]: ""} if blank and case in blank else {}))
    return write_table(table, rows)


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a result table by case id."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


class ThresholdCenter(nn.Module):
    """A network whose mask is known: positive where the centre slice of one modality exceeds a value.

    Args:
        modality: index of the modality.
        threshold: normalised intensity.
        num_slices: slices per modality.
    """

    def __init__(self, modality: int = 0, threshold: float = 0.7, num_slices: int = 3) -> None:
        super().__init__()
        self.channel = modality * num_slices + num_slices // 2
        self.threshold = threshold
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 1, H, W)``, far from zero."""
        self.calls.append(tuple(x.shape))
        return (x[:, self.channel : self.channel + 1] - self.threshold) * 100


def tiny_network(seed: int = 0) -> DifferSeg:
    """A real DifferSeg with random weights, few channels and few parts: the network of `SMALL`."""
    torch.manual_seed(seed)
    return DifferSeg((3, 3, 3), "test_resnet", (8, 8, 8, 8), fusion="concat", decoder="unet").eval()


SMALL_NETWORK: dict[str, Any] = {
    "network_def::encoder": "test_resnet",
    "network_def::decoder_channels": [8, 8, 8, 8],
    "network_def::fusion": "concat",
    "network_def::decoder": "unet",
}
"""Half as many tensors to build, train, save and load as the paper's network has at that width."""

#: What makes the bundle's own configuration quick enough for tests.
SMALL: dict[str, Any] = {
    **SMALL_NETWORK,
    "roi_size": [32, 32],
    "planes": ["axial"],
    "pixdim": None,
}


SHORT_TRAINING = {
    "network_def::encoder_weights": None,
    "roi_size": [32, 32],
    "planes": ["axial", "coronal"],
    "batch_size": 2,
    "iterations": 2,
    "max_epochs": 2,
    "val_interval": 1,
    "learning_rate": 0.01,
}
"""Settings over train.yaml: two epochs of two steps."""


def bundle_workflow(*configs: str, **overrides: Any) -> Workflow:
    """The bundle's real configuration, small, as ``monai.bundle run`` would build it, initialised."""
    kind = "train" if "train.yaml" in configs else "inference"
    settings = {"bundle_root": str(BUNDLE), "device": "$torch.device('cpu')", **SMALL, **overrides}
    workflow = Workflow(
        config_file=[str(BUNDLE / "configs" / name) for name in configs],
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        workflow_type=kind,
        logging_file=False,  # the file of the bundle would take the root logger's handlers, pytest's among them
        **settings,
    )
    workflow.initialize()
    return workflow
