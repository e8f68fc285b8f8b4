"""Peak memory of predicting a large volume: ``python scripts/measure_large.py 512 512 600 --modalities 2 --limit 4``.

A synthetic CT (and copies of it as further modalities) is predicted by the command line in a process of its own with a
tiny network, so that the figure is what reading, preprocessing, restoring, components, writing and pictures need; what
a network adds depends on its window and stands in docs/benchmarks.md. Prints the peak; ends with 1 above the limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel
import numpy as np
from benchmark_predict import run_command

BUNDLE = Path(__file__).parents[1] / "bundles" / "sts_petctmr_segmentation"
NAMES = ("ct", "t1", "pet")
"""What the bundle calls its modalities; here all are that CT."""

SPACING_MM = (0.8, 0.8, 1.0)


def write_volume(path: Path, shape: tuple[int, int, int]) -> None:
    """A body of soft tissue in air, slice by slice, as int16."""
    image = nibabel.Nifti1Image(np.empty((1, 1, 1), np.int16), np.diag([*SPACING_MM, 1.0]))
    header = image.header.copy()
    header.set_data_shape(shape)
    header.set_data_offset(352)
    rows, columns = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    body, random = rows**2 + columns**2 < 0.64, np.random.default_rng(0)
    with path.open("wb") as file:
        header.write_to(file)
        file.write(b"\0" * (352 - file.tell()))
        for _ in range(shape[2]):
            tissue = random.integers(-20, 80, shape[:2])
            file.write(np.where(body, tissue, -1000).astype("<i2").tobytes(order="F"))


def settings_of(folder: Path, names: list[str], pixdim: float) -> list[str]:
    """Weights of a tiny network in ``folder``, and the values that make the sarcoma bundle use it."""
    import torch

    from differseg_med.networks import DifferSeg

    shape = {"encoder": "test_resnet", "decoder_channels": [8, 8, 8, 8]}
    torch.manual_seed(0)
    torch.save(DifferSeg(in_channels=[3] * len(names), **shape).state_dict(), folder / "tiny.pt")
    modalities = ", ".join(f"{name}: {{kind: ct, window: [-160, 240]}}" for name in names)
    values = {
        "modalities": f"{{{modalities}}}",
        "reference": names[0],
        "in_channels": [3] * len(names),
        "pixdim": [pixdim] * 3,
        "checkpoint": folder / "tiny.pt",
        "planes": ["axial"],
        "roi_size": [256, 256],
        "network_def::encoder": shape["encoder"],
        "network_def::decoder_channels": shape["decoder_channels"],
    }
    return [f"{name}={value}" for name, value in values.items()]


def predict(folder: Path, names: list[str], settings: list[str]) -> float:
    """Peak memory in GB of the command line."""
    words = ["predict", "--bundle", str(BUNDLE), "--out", str(folder / "out"), "--backend", "torch"]
    words += [word for name in names for word in ("--image", f"{name}={folder / name}.nii")]
    words += [word for value in settings for word in ("--set", value)]
    used = run_command(words, os.environ, folder / "log.txt", "predict")
    return used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def main() -> None:
    """Write the volume, predict it, print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", type=int, nargs=3, metavar="VOXELS")
    parser.add_argument("--modalities", type=int, default=1)
    parser.add_argument("--pixdim", type=float, default=2.0, help="of the network's grid, in mm")
    parser.add_argument("--limit", type=float, help="GB that are allowed")
    chosen = parser.parse_args()
    names = list(NAMES[: chosen.modalities])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_volume(folder / f"{names[0]}.nii", tuple(chosen.shape))
        for name in names[1:]:
            os.link(folder / f"{names[0]}.nii", folder / f"{name}.nii")
        peak = predict(folder, names, settings_of(folder, names, chosen.pixdim))
    size = " x ".join(map(str, chosen.shape))
    print(f"{size}, {len(names)} modalities, network's grid {chosen.pixdim} mm: peak {peak:.2f} GB")
    if chosen.limit and peak > chosen.limit:
        raise SystemExit(f"more than {chosen.limit} GB")


if __name__ == "__main__":
    main()
