"""Which share of the peak of convolutions does the network reach? ``python scripts/measure_peak.py --threads 1``.

The peak is the quickest of some plain dense convolutions, measured in the same process by the same engine, in turn with
the network; operations of the network are those of its convolutions alone, so that all else counts as loss.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from differseg_med.backends.engines import ENGINES, installed
from differseg_med.networks import DifferSeg
from differseg_med.networks.inference import fuse_for_inference

WINDOWS, PIXELS = 4, 96
PLAIN = ((64, 3, 48), (128, 3, 24), (256, 3, 24), (256, 1, 48))
"""Channels, kernel and pixels of the plain convolutions."""

Make = Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]


def engines(bfloat16: bool) -> dict[str, Make]:
    """What makes a network ready for inputs like one, by name."""
    found: dict[str, Make] = {"torch, fused": partial(_eager, bfloat16)}
    if installed("openvino"):
        found["openvino"] = partial(_openvino, bfloat16)
    return found


def _eager(bfloat16: bool, network: nn.Module, _: Tensor) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out: Tensor = network(x.contiguous(memory_format=torch.channels_last))
        return out

    return run


def _openvino(bfloat16: bool, network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    shape = (x.shape[0], x.shape[2], x.shape[3])
    return ENGINES["openvino"](lambda: network, x.shape[1], "", None, bfloat16, shape)


def operations(network: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of the convolutions of one call."""
    with FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()


def layers_and_inputs() -> dict[str, tuple[nn.Module, Tensor]]:
    """The network and the plain convolutions."""
    torch.manual_seed(0)
    network = fuse_for_inference(DifferSeg((3, 3, 3)))
    found: dict[str, tuple[nn.Module, Tensor]] = {"network": (network, torch.randn(WINDOWS, 9, PIXELS, PIXELS))}
    for channels, kernel, size in PLAIN:
        layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2).to(memory_format=torch.channels_last)
        found[f"{kernel} x {kernel}, {channels} channels, {size} px"] = (layer, torch.randn(4, channels, size, size))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="cpu: one thread, on a busy machine")
    parser.add_argument("--bfloat16", action="store_true", help="both in bfloat16, where the processor has it")
    chosen = parser.parse_args()
    clock = time.process_time if chosen.clock == "cpu" else time.perf_counter
    torch.set_num_threads(chosen.threads)
    layers = layers_and_inputs()
    with torch.no_grad():
        made = {e: {n: make(m, x) for n, (m, x) in layers.items()} for e, make in engines(chosen.bfloat16).items()}
        count = {name: operations(layer, x) for name, (layer, x) in layers.items()}
        best = {(engine, name): float("inf") for engine in made for name in layers}
        for _ in range(chosen.rounds + 1):  # one more, as the first is no measurement
            for engine, name in best:
                start = clock()
                made[engine][name](layers[name][1])
                best[engine, name] = min(best[engine, name], clock() - start)
    rate = {key: count[key[1]] / seconds / 1e9 for key, seconds in best.items()}
    for engine in made:
        peak = max((name for name in layers if name != "network"), key=lambda name: rate[engine, name])
        share = rate[engine, "network"] / max(rate.values())
        print(f"{engine}: {1000 * best[engine, 'network'] / WINDOWS:.1f} ms a window,", end=" ")
        print(f"{rate[engine, 'network']:.1f} GFLOP/s; plain convolution {rate[engine, peak]:.1f} ({peak});", end=" ")
        print(f"{rate[engine, 'network'] / rate[engine, peak]:.0%} of it, {share:.0%} of the best of both engines")
    print(f"{count['network'] / WINDOWS / 1e9:.2f} GFLOP of convolutions in a window of {PIXELS} x {PIXELS}")


if __name__ == "__main__":
    main()
