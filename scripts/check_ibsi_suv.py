"""Read the digital reference objects of IBSI-SUV and print their SUV: least, median, most within their mask.

    git clone https://github.com/oncoray/suv_computation
    python scripts/check_ibsi_suv.py suv_computation/DRO

Each must give 0.20, 1.00 and 4.00 (CC BY 4.0, Vacha et al. 2026). ``DRO_2_3`` stores its values in steps of 0.038 SUV.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

from differseg_med.errors import CaseError
from differseg_med.io.dicom.reader import read_volume

EXPECTED = (0.20, 1.00, 4.00)


def main() -> None:
    """Print one line per object; the exit code is the number of those that are wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    wrong = 0
    for folder in sorted(parser.parse_args().folder.glob("DRO_*/PT")):
        mask = np.asarray(nib.load(folder.parent / "mask" / "DRO_mask.nii.gz").dataobj) > 0
        try:
            volume = read_volume(folder)
        except CaseError as error:
            print(f"{folder.parent.name}: refused: {error}")
            wrong += 1
            continue
        suv = volume.data[mask]
        found = (float(suv.min()), float(np.median(suv)), float(suv.max()))
        step = found[2] / largest_stored(folder)  # the SUV of one step of the stored integers
        right = np.allclose(found, EXPECTED, rtol=0, atol=max(0.005, step))
        wrong += not right
        print(f"{folder.parent.name}: {' '.join(f'{value:.3f}' for value in found)} {'' if right else 'WRONG'}")
        print(f"    {'; '.join(volume.notes)}")
    raise SystemExit(wrong)


def largest_stored(folder: Path) -> float:
    """The largest stored value of a series."""
    return float(max(pydicom.dcmread(path).pixel_array.max() for path in folder.iterdir()))


if __name__ == "__main__":
    main()
