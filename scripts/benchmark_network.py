"""Time DifferSeg's evaluation against NETWORK.md word for word, in one run: ``python scripts/benchmark_network.py``.

Variants run in turns, so that whatever else the machine does falls on all of them; the best round counts. Outputs are
compared with the literal network's before anything is timed.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from literal_network import LiteralDifferSeg, our_state_dict, randomise
from torch import Tensor, nn

from differseg_med.networks import DifferSeg, build_encoder
from differseg_med.networks.inference import fuse_for_inference, pack_for_cpu


@dataclass
class Case:
    title: str
    encoder: str
    in_channels: tuple[int, ...]
    channels: tuple[int, ...]
    size: int
    adapter_dim: int | None = None


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
CASES = {
    "hiera": Case("Hiera-T, two modalities, 512 px", "sam2_hiera_tiny", (3, 1), (64, 128, 256, 512), 512, 32),
    "lite0": Case("lite0, three modalities, 256 px", "tf_efficientnet_lite0", (1, 1, 1), (32, 48, 64, 96), 256),
}
#: Largest difference from the literal network, relative to its largest output. With random weights, bfloat16 alone
#: moves the literal network of lite0 by 4e-2.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}


def networks(case: Case) -> tuple[LiteralDifferSeg, DifferSeg]:
    """The literal network and ours with the same random weights."""
    torch.manual_seed(0)
    encoder, widths = build_encoder(case.encoder, adapter_dim=case.adapter_dim)
    literal = LiteralDifferSeg(encoder, widths, case.in_channels, case.channels)
    randomise(literal)
    ours = DifferSeg(case.in_channels, case.encoder, case.channels, adapter_dim=case.adapter_dim)
    ours.load_state_dict(our_state_dict(literal))
    return literal.eval(), ours.eval()


def variants(case: Case, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    literal, ours = networks(case)
    fused = fuse_for_inference(ours)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "literal, fp32": lambda x: literal(x)[0],
        "ours, fp32": ours,
        "fused, fp32": fused,
        "packed, fp32": pack_for_cpu(ours),
        "literal, bf16": in_bf16(lambda x: literal(x)[0]),
        "ours, bf16": in_bf16(ours),
        "fused, bf16": in_bf16(fused),
    }
    if compiled:
        found["fused + compiled, fp32"] = torch.compile(fused)
        found["fused + compiled, bf16"] = in_bf16(torch.compile(fused))
    return found


def in_bf16(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(x).float()

    return run


def measure(case: Case, rounds: int, compiled: bool, clock: Clock) -> list[tuple[str, float, float]]:
    """Rows of name, best seconds and relative difference from the literal output."""
    x = torch.randn(1, sum(case.in_channels), case.size, case.size)
    runs = variants(case, compiled)
    expected = runs["literal, fp32"](x)
    errors = {}
    for name, run in runs.items():  # also the warm-up
        errors[name] = float((run(x) - expected).abs().max() / expected.abs().max())
        limit = TOLERANCE[name[-4:]]
        if errors[name] > limit:
            raise SystemExit(f"{case.title}: {name} differs from the literal network by {errors[name]:.1e} > {limit}")
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run(x)
            best[name] = min(best[name], clock() - start)
        print(
            case.title, {name: round(best["literal, fp32"] / seconds, 2) for name, seconds in best.items()}, flush=True
        )
    return [(name, best[name], errors[name]) for name in runs]


def shares(case: Case, rounds: int, clock: Clock) -> dict[str, float]:
    """Part of our plain fp32 forward that each component takes; the rest is stems, resizing and bookkeeping."""
    _, ours = networks(case)
    parts: dict[str, list[nn.Module]] = {
        "encoder": [ours.encoder],
        "RFB": list(ours.reduce),
        "DPF": list(ours.fuse),
        "FGD": [ours.decode],
        "head": [ours.heads[0]],
    }
    spent = dict.fromkeys(parts, 0.0)
    started = {"at": 0.0}

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            spent[name] += clock() - started["at"]

        return hook

    for name, modules in parts.items():
        for module in modules:
            module.register_forward_pre_hook(lambda *_: started.update(at=clock()))
            module.register_forward_hook(stop(name))
    x = torch.randn(1, sum(case.in_channels), case.size, case.size)
    ours(x)
    spent.update(dict.fromkeys(parts, 0.0))
    begin = clock()
    for _ in range(rounds):
        ours(x)
    total = clock() - begin
    return {name: seconds / total for name, seconds in spent.items()}


def peak_memory(key: str, name: str) -> float:
    """Peak of a process of its own above what it had before the forward pass, in MiB."""
    command = [sys.executable, __file__, "--memory-of", name, "--cases", key]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_memory(case: Case, name: str) -> None:
    run = variants(case, compiled=False)[name]
    x = torch.randn(1, sum(case.in_channels), case.size, case.size)
    # Linux: give freed memory back and forget the peak. (getrusage would not do: a process inherits its parent's peak.)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water_mark()
    run(x)
    print(high_water_mark() - before)


def high_water_mark() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def report(keys: list[str], rounds: int, compiled: bool, clock: Clock) -> list[str]:
    """The tables as Markdown lines; everything is timed before memory is looked at."""
    timed = {key: (measure(CASES[key], rounds, compiled, clock), shares(CASES[key], rounds, clock)) for key in keys}
    print("timed", flush=True)
    lines = []
    for key, (rows, share) in timed.items():
        lines += [f"## {CASES[key].title}", "", "| variant | seconds | times faster | difference | peak memory (MiB) |"]
        lines += ["|---|---|---|---|---|"]
        for name, seconds, error in rows:
            memory = "" if "compiled" in name else f"{peak_memory(key, name):.0f}"
            lines.append(f"| {name} | {seconds:.3f} | {rows[0][1] / seconds:.2f} | {error:.0e} | {memory} |")
        parts = ", ".join(f"{name} {part:.0%}" for name, part in share.items())
        lines += ["", f"Share of time, ours, fp32: {parts}.", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: for a busy machine, with one thread"
    )
    parser.add_argument("--compiled", action="store_true", help="also torch.compile; needs a C++ compiler and minutes")
    parser.add_argument("--output", type=Path, help="write the tables to this Markdown file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.no_grad():
        if arguments.memory_of:
            print_memory(CASES[arguments.cases[0]], arguments.memory_of)
            return
        lines = report(arguments.cases, arguments.rounds, arguments.compiled, CLOCKS[arguments.clock])
    head = HEAD.format(
        threads=arguments.threads, rounds=arguments.rounds, clock=arguments.clock, torch=torch.__version__
    )
    text = "\n".join([*head.splitlines(), "", *lines])
    print(text)
    if arguments.output:
        held = arguments.output.read_text() if arguments.output.is_file() else ""
        others = held[held.find(PREDICTIONS) :] if PREDICTIONS in held else ""
        arguments.output.write_text(f"{text}\n{others}")


PREDICTIONS = "# Whole predictions"
"""The section of `scripts/benchmark_predict.py` on the same page."""

HEAD = """# Time and memory of the network

Made by

    python scripts/benchmark_network.py --threads {threads} --rounds {rounds} --clock {clock} \\
        --output docs/benchmarks.md

with torch {torch}: {clock} time, threads: {threads}, batch 1, evaluation, random weights, best of {rounds} alternating
rounds in one run. `literal` is the method word for word (`scripts/literal_network.py`): one pass per modality,
reshaped difference convolutions, auxiliary heads. `ours` is `DifferSeg` as it is, which works in channels-last layout;
`fused` is the copy that `differseg_med.networks.inference.fuse_for_inference` makes, with batch norm folded;
`packed` is `pack_for_cpu`: also the linear layers of a transformer in oneDNN's layout with their GELU, eager fp32 only.
The difference is the largest from the literal fp32 output, relative to the largest output; the script stops above
1e-4 (fp32) or 5e-2 (bf16). Peak memory is what one forward pass adds to a process of its own.
"""


if __name__ == "__main__":
    main()
