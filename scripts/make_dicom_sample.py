"""Cut the DICOM series of a patient down to a few slices around the tumour, as a zip archive that tests can ship.

    python scripts/make_dicom_sample.py ../shared/data/sts_dicom/STS_041 tests/data/sts_041_slab.zip

Slices outside of the slab, CT pixels outside of the T1's box, contours outside of the slab and private attributes are
left out; what stays is as the archive has it (CC BY 3.0, see tests/data/README.md).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset

SLAB = {"MR_T1": (829.0, 862.0), "CT": (829.0, 862.0), "PET": (820.0, 872.0)}
"""Lowest and highest slice in mm; PET has margin, because it is interpolated."""


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("patient", type=Path)
    parser.add_argument("archive", type=Path)
    arguments = parser.parse_args()
    series = {kind: images(arguments.patient / kind / "image", *SLAB[kind]) for kind in SLAB}
    for image in series["CT"]:
        crop(image, series["MR_T1"][0])
    structures = pydicom.dcmread(next((arguments.patient / "MR_T1" / "mask").iterdir()))
    keep_contours(structures, *SLAB["MR_T1"])
    with zipfile.ZipFile(arguments.archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for kind, datasets in series.items():
            for number, dataset in enumerate(datasets):
                write(archive, f"{kind}/{number:02d}.dcm", dataset)
        write(archive, "RS/rs.dcm", structures)


def images(folder: Path, low: float, high: float) -> list[FileDataset]:
    """The slices of a series between two heights, from below."""
    datasets = [pydicom.dcmread(path) for path in folder.iterdir()]
    kept = [dataset for dataset in datasets if low <= float(dataset.ImagePositionPatient[2]) <= high]
    return sorted(kept, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def crop(image: FileDataset, box: FileDataset) -> None:
    """Leave of an axial image the pixels of another one on the same lattice."""
    offset = np.subtract(box.ImagePositionPatient[:2], image.ImagePositionPatient[:2]) / image.PixelSpacing[0]
    column, row = np.rint(offset).astype(int)
    pixels = image.pixel_array[row : row + box.Rows, column : column + box.Columns]
    position = np.array(image.ImagePositionPatient, float)
    position[:2] += np.rint(offset) * image.PixelSpacing[0]
    image.ImagePositionPatient = [f"{value:.10g}" for value in position]
    image.Rows, image.Columns = pixels.shape
    image.PixelData = np.ascontiguousarray(pixels).tobytes()


def keep_contours(structures: FileDataset, low: float, high: float) -> None:
    """Leave the contours between two heights."""
    for roi in structures.ROIContourSequence:
        roi.ContourSequence = [item for item in roi.ContourSequence if low <= float(item.ContourData[2]) <= high]


def write(archive: zipfile.ZipFile, name: str, dataset: FileDataset) -> None:
    """Add a data set without private attributes, always with the same bytes."""
    dataset.remove_private_tags()
    file = io.BytesIO()
    dataset.save_as(file)
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, file.getvalue())


if __name__ == "__main__":
    main()
