"""What does looking first save, and does it change masks? Windows with and without it, and the Dice of the two masks.

    python scripts/compare_look.py bundles/sts_petctmr_segmentation validation.csv --withhold pet

Counts do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from differseg_med.backends.prepared import Prepared
from differseg_med.bundles.workflows import BundleRun
from differseg_med.inferers import SliceWindowInferer
from differseg_med.keys import IMAGE, PRED


class Counting:
    """A network made ready, and how many windows it computed."""

    def __init__(self, network: Prepared) -> None:
        self.network, self.in_channels, self.windows = network, network.in_channels, 0

    def expect(self, windows: dict) -> None:
        """Hand on what an inferer tells."""
        self.network.expect(windows)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute and count."""
        self.windows += len(x)
        return self.network(x)


def dice_of(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks; 1 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def main(words: Sequence[str] | None = None) -> None:
    """Compare, case by case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--withhold", nargs="*", default=[], help="modalities that are left out")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--suspicious", action="store_true", help="compute all that is suspicious, without decide_at")
    parser.add_argument("--tolerance", type=float, nargs="+", help="of decide_at; default: the bundle's")
    chosen = parser.parse_args(words)
    options = {"withhold": chosen.withhold or None, "device": "cpu"}
    workflow = BundleRun(str(chosen.bundle), ["inference"], chosen.cohort, Path("unused"), options, ()).open()
    parsed = {name: workflow.parser.get_parsed_content(name) for name in ("dataset", "network", "postprocessing")}
    inferer = workflow.parser.get_parsed_content("inferer")
    assert isinstance(inferer, SliceWindowInferer)
    ready = Counting(Prepared(parsed["network"]))
    for item in parsed["dataset"]:
        image, masks, counts = item["sample"][IMAGE], [], []
        tries = chosen.tolerance or [inferer.tolerance]
        for every, tolerance in [(1, 0.0), *((chosen.every, value) for value in tries)]:
            looking = copy.copy(inferer)
            looking.look_every, looking.tolerance, ready.windows = every, tolerance, 0
            looking.decide_at = None if chosen.suspicious else inferer.decide_at
            with torch.no_grad():
                logits = looking(image.unsqueeze(0), ready)
            found = parsed["postprocessing"]({IMAGE: image, PRED: logits[0]})
            masks.append(np.asarray(found[PRED][0]) > 0)
            counts.append(ready.windows)
        for tolerance, mask, count in zip(tries, masks[1:], counts[1:]):
            told = f"{counts[0]} windows, {count} with a look ({count / counts[0]:.2f})"
            agreed = dice_of(masks[0], mask)
            print(f"{item['case'].case_id}, tolerance {tolerance}: {told}, Dice {agreed:.4f}", flush=True)


if __name__ == "__main__":
    main()
