"""Convert a checkpoint of the paper's authors: ``python scripts/convert_weights.py in.pth out.pt``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from differseg_med.networks.checkpoints import convert_reference_state_dict, is_dropped, read_state_dict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="checkpoint with the authors' keys (.pth, .pt or .safetensors)")
    parser.add_argument("target", type=Path, help="where to write the weights for DifferSeg (.pt)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        state = read_state_dict(arguments.source)
        converted = convert_reference_state_dict(state)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    torch.save(converted, arguments.target)
    for key in filter(is_dropped, state):
        logging.info("dropped %s", key)
    logging.info("wrote %d tensors from %d to %s", len(converted), len(state), arguments.target)


if __name__ == "__main__":
    main()
