"""Turn a training's best.pt into the weights of a bundle: half precision, plain tensors, half the size.

    python scripts/release_weights.py runs/best.pt bundles/NAME/models/model.pt

A target that ends in .safetensors can hold nothing but tensors, whoever reads it; `checkpoint` of the bundle's
configuration names it then.

Loading converts back to single precision. Evaluate the bundle with the released file, not with best.pt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from differseg_med.atomic import replacing
from differseg_med.networks.checkpoints import read_state_dict


def main() -> None:
    """Parse arguments and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    state = read_state_dict(arguments.source)
    largest = max(float(value.abs().max()) for value in state.values() if value.is_floating_point())
    if largest > torch.finfo(torch.float16).max:
        parser.error(f"a value of {largest:.3g} does not fit half precision")
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    with replacing(arguments.target) as temporary:
        if arguments.target.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in halved.items()}, temporary)
        else:
            with temporary.open("wb") as file:  # of a path torch writes the name into the file
                torch.save(halved, file)
    print(f"{arguments.target}: {arguments.target.stat().st_size / 1e6:.1f} MB, largest value {largest:.3g}")


if __name__ == "__main__":
    main()
