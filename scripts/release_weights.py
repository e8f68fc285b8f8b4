"""Turn weights alone into those of a bundle: half precision, plain tensors; `differseg-med release` makes a bundle.

    python scripts/release_weights.py runs/best.pt bundles/NAME/models/model.pt

A target that ends in .safetensors can hold nothing but tensors, whoever reads it; `checkpoint` of the bundle's
configuration names it then.

Loading converts back to single precision. Evaluate the bundle with the released file, not with best.pt. A manifest
of the bundle is written anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from differseg_med.bundles.manifest import MANIFEST, write_manifest
from differseg_med.bundles.release import save_half
from differseg_med.errors import CaseError
from differseg_med.networks.checkpoints import read_state_dict
from differseg_med.runs.folder import occupied


def main() -> None:
    """Parse arguments and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        with occupied(arguments.target.parent, [arguments.source], deep=False):  # clears what a killed call left there
            save_half(read_state_dict(arguments.source), arguments.target)
    except (CaseError, ValueError) as error:
        parser.error(str(error))
    bundle = arguments.target.absolute().parents[1]
    if (bundle / MANIFEST).is_file():
        write_manifest(bundle)
    print(f"{arguments.target}: {arguments.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
