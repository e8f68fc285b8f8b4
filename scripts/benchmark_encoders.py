"""Parameters and CPU time of DifferSeg with each recommended encoder: ``python scripts/benchmark_encoders.py``.

All encoders run in turns in one process; the best round counts, and the ratio is to `BASELINE` in the same run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmark_network import CLOCKS, Clock
from torch import nn

from differseg_med.networks import DifferSeg
from differseg_med.networks.encoders import RECOMMENDED
from differseg_med.networks.inference import fuse_for_inference

BASELINE = "tf_efficientnet_lite0"
CHANNELS = (32, 48, 64, 96)
LARGE = (64, 128, 256, 512)  # the paper's, for its encoder family


def network(name: str) -> DifferSeg:
    torch.manual_seed(0)
    return DifferSeg((1, 1), name, LARGE if "hiera" in name else CHANNELS).eval()


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def measure(names: list[str], size: int, rounds: int, clock: Clock) -> dict[str, tuple[float, float, float]]:
    """Millions of parameters of the encoder and of the whole, and best seconds, by encoder."""
    networks = {name: network(name) for name in names}
    found = {name: (millions(n.encoder), millions(n)) for name, n in networks.items()}
    runs = {name: fuse_for_inference(n) for name, n in networks.items()}
    x = torch.randn(1, 2, size, size)
    best = dict.fromkeys(names, float("inf"))
    for warm in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run(x)
            if warm:
                best[name] = min(best[name], clock() - start)
        print({name: round(seconds, 3) for name, seconds in best.items()}, flush=True)
    return {name: (*found[name], best[name]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=list(RECOMMENDED))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--output", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = list(dict.fromkeys([BASELINE, *arguments.encoders]))
    with torch.no_grad():
        rows = measure(names, arguments.size, arguments.rounds, CLOCKS[arguments.clock])
    lines = HEAD.format(**vars(arguments), torch=torch.__version__, baseline=BASELINE).splitlines()
    for name, (encoder, whole, seconds) in rows.items():
        lines.append(f"| `{name}` | {encoder:.1f} | {whole:.1f} | {seconds:.2f} | {seconds / rows[BASELINE][2]:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


HEAD = """# Recommended encoders

Made by

    python scripts/benchmark_encoders.py --size {size} --rounds {rounds} --threads {threads} --clock {clock} \\
        --output docs/encoders.md

with torch {torch}: one evaluation of DifferSeg (batch norm folded) with two modalities of one channel at
{size} x {size}, {clock} time, threads: {threads}, best of {rounds} rounds in turns. The decoder has widths
32, 48, 64, 96; with the SAM 2 Hieras the paper's 64, 128, 256, 512. Any other timm model with feature strides
4, 8, 16, 32 works as well; one without is refused with the nearest names that do. `encoder_weights="package"`
gives lite0 its ImageNet weights without a network; the others take `pretrained=True` (timm's hub) or
`encoder_weights=PATH`.

| encoder | parameters, encoder (M) | whole network (M) | seconds | times {baseline} |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    main()
