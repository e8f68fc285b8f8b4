"""Draw the network from the code: ``python scripts/draw_network.py docs/network.png``.

Boxes, shapes and parameter counts are read from a `DifferSeg` that is run once; nothing in the picture is typed by hand
but the names of the parts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from differseg_med.networks import DifferSeg

COLOURS = {"encoder": "#dbe7f3", "reduce": "#e3f0dc", "fuse": "#fbe6cf", "decode": "#eadcf0", "heads": "#f6d9d9"}
BOX = (1.75, 0.62)


@dataclass
class Trace:
    """What one forward pass saw: output shapes ``(C, H, W)`` and parameters per module name."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)

    def label(self, name: str, title: str) -> str:
        shape = " x ".join(map(str, self.shapes[name]))
        count = self.parameters[name]
        return f"{title}\n{shape}\n{count / 1e6:.2f} M" if count >= 1e4 else f"{title}\n{shape}\n{count / 1e3:.1f} k"


def trace(network: DifferSeg, size: int) -> Trace:
    seen = Trace()

    def hook(name: str, module: nn.Module) -> None:
        def after(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...] | list[Tensor]) -> None:
            levels = [output] if isinstance(output, Tensor) else list(output)
            for i, level in enumerate(levels):
                seen.shapes[name if isinstance(output, Tensor) else f"{name}.{i}"] = tuple(level.shape[1:])

        seen.parameters[name] = sum(p.numel() for p in module.parameters())
        module.register_forward_hook(after)

    for name, module in network.named_modules():
        hook(name, module)
    with torch.no_grad():
        network(torch.randn(2, sum(network.in_channels), size, size))
    return seen


def box(axes: Axes, x: float, y: float, text: str, colour: str, size: tuple[float, float] = BOX) -> None:
    corner = (x - size[0] / 2, y - size[1] / 2)
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0.02", fc=colour, ec="#555555", lw=0.8))
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, linespacing=1.25)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "lw": 0.9, "color": "#444444", "linestyle": style})


def draw(network: DifferSeg, size: int, title: str) -> plt.Figure:
    seen = trace(network, size)
    figure, axes = plt.subplots(figsize=(13, 6.6))
    modalities = network.num_modalities
    columns = {"encoder": 2.6, "reduce": 4.9, "fuse": 7.2, "upsample": 9.7, "heads": 12.6}
    rows = [0.0, -1.35, -2.7, -4.05]
    half = BOX[0] / 2

    total = seen.parameters["encoder"]
    height = rows[0] - rows[3] + 1.0
    middle = (rows[0] + rows[3]) / 2
    name = f"encoder\n(shared by all\nmodalities)\n{total / 1e6:.2f} M"
    box(axes, columns["encoder"] - 0.55, middle, name, COLOURS["encoder"], (1.0, height))
    for i, channels in enumerate(network.in_channels):
        y = middle + (modalities - 1) / 2 * 0.9 - 0.9 * i
        box(axes, 0.35, y, f"modality {i + 1}\n{channels} x {size} x {size}", "#f2f2f2", (1.25, 0.5))
        arrow(axes, (1.0, y), (columns["encoder"] - 1.08, y))
    box(axes, 0.35, rows[3] - 0.35, "presence:\nall channels zero\n= absent", "#f2f2f2", (1.25, 0.6))
    arrow(axes, (1.0, rows[3] - 0.75), (columns["fuse"], rows[3] - 0.75), ":")
    axes.text(4.0, rows[3] - 0.93, "weights, projections and residual of absent modalities are zero", fontsize=7)

    for i, y in enumerate(rows):
        level = " x ".join(map(str, seen.shapes[f"encoder.{i}"]))
        axes.text(columns["reduce"] - half - 0.72, y + 0.1, f"{modalities} · {level}", fontsize=6.5, ha="center")
        arrow(axes, (columns["encoder"] - 0.03, y), (columns["reduce"] - half, y))
        box(axes, columns["reduce"], y, seen.label(f"reduce.{i}", "RFB"), COLOURS["reduce"])
        arrow(axes, (columns["reduce"] + half, y), (columns["fuse"] - half, y))
        box(
            axes,
            columns["fuse"],
            y,
            seen.label(f"fuse.{i}", "DPF" if modalities > 1 else "(one modality)"),
            COLOURS["fuse"],
        )
        arrow(axes, (columns["fuse"] + half, y), (columns["upsample"] - half - 0.1, y))
        draw_level(axes, network, seen, i, columns, rows)
    axes.text(
        columns["upsample"], rows[0] + 0.5, "frequency-guided decoder", fontsize=8.5, ha="center", color="#6a3d7c"
    )
    axes.set_title(f"{title}: {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters", fontsize=11)
    axes.set_xlim(-0.45, 13.7)
    axes.set_ylim(rows[3] - 1.15, rows[0] + 1.2)
    axes.axis("off")
    figure.tight_layout()
    return figure


def draw_level(
    axes: Axes, network: DifferSeg, seen: Trace, i: int, columns: dict[str, float], rows: list[float]
) -> None:
    """The decoder's part of one level (0 is stride 4), and its head."""
    x, y, coarse_first = columns["upsample"], rows[i], 3 - i
    count = seen.parameters[f"decode.decompose.{coarse_first}"] + seen.parameters[f"decode.attend.{coarse_first}"]
    shape = " x ".join(map(str, seen.shapes[f"decode.decompose.{coarse_first}.0"]))
    text = f"low + high, attention\n2 · {shape}\n{count / 1e3:.0f} k"
    box(axes, x, y, text, COLOURS["decode"], (BOX[0] + 0.2, BOX[1]))
    if i < 3:
        up = seen.parameters[f"decode.upsample.{2 - i}"]
        arrow(axes, (x, rows[i + 1] + 0.31), (x, y - 0.31))
        axes.text(x + 0.08, (y + rows[i + 1]) / 2, f"upsampler {up / 1e6:.2f} M", fontsize=7, va="center")
    right, half = columns["heads"], BOX[0] / 2
    if i == 0:
        balance = seen.parameters["decode.balance"]
        axes.text(x + 1.45, y + 0.1, f"balancer {balance / 1e3:.0f} k", fontsize=7, ha="center")
        arrow(axes, (x + half + 0.1, y), (right - half, y))
    else:
        # From the fused level, around the decoder, and in training only.
        start = (columns["fuse"] + half - 0.3, y - 0.31)
        axes.plot(
            [start[0], start[0], right - half - 0.3], [start[1], y - 0.52, y - 0.52], ":", lw=0.9, color="#444444"
        )
        arrow(axes, (right - half - 0.3, y - 0.52), (right - half, y - 0.15), ":")
    box(axes, right, y, seen.label(f"heads.{i}", "main head" if i == 0 else "head, training only"), COLOURS["heads"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", default=Path("docs/network.png"))
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    network = DifferSeg()
    figure = draw(network, arguments.size, f"DifferSeg with its defaults at {arguments.size} px")
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
