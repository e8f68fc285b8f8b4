"""What does `predict` cost, against another commit? CPU seconds and memory of whole runs, interleaved, and the masks.

    git worktree add ../before 058a6ac
    python scripts/benchmark_predict.py ../before sts_cases.csv --threads 1 2 --rounds 3 --output docs/benchmarks.md

Every run is a process of its own, from start to report. The order of the variants is that of the table, in each round;
the median of the rounds counts, for ratios that of the rounds' ratios, as a shared machine is now quicker and now
slower. CPU seconds are told rather than wall time, so that other programs on the machine matter less (they still do:
they share its caches). Programs of engines are stored by runs that are not counted; without them, a row says cold.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
HEADING = "# Whole predictions"
BUNDLE = "sts_petctmr_segmentation"
RUN = "import sys; sys.path.remove(''); from differseg_med.cli import app; app(sys.argv[1:])"
"""The command line of PYTHONPATH's checkout: the folder one stands in, which Python puts first, may be another."""

EVERY = "torch float32, every slice"
"""The variant whose masks the others are compared with: what `before` segments also depends on its preprocessing."""

Measured = dict[tuple[str, int], list[tuple[float, float]]]
"""CPU seconds and peak memory in MiB of each round, by variant and threads."""


def variants(old: Path, new: Path) -> dict[str, tuple[Path, dict[str, str], list[str]]]:
    """Checkout, environment and more arguments of each variant."""
    torch, openvino = (["--backend", backend] for backend in ("torch", "openvino"))
    exact = ["--set", "amp=false"]
    return {
        "before": (old, {}, []),
        EVERY: (new, {}, [*torch, *exact, "--set", "look_every=1"]),
        "torch float32": (new, {}, [*torch, *exact]),
        "torch": (new, {}, torch),
        "openvino, cold": (new, {"DIFFERSEG_CACHE": ""}, openvino),
        "openvino float32": (new, {}, [*openvino, *exact]),
        "openvino": (new, {}, openvino),
    }


def run(checkout: Path, environment: dict[str, str], more: list[str], cohort: Path, out: Path, threads: int) -> tuple:
    """Predict in a process of its own; CPU seconds and peak memory in MiB."""
    bundle = checkout / "bundles" / BUNDLE
    words = ["predict", "--bundle", str(bundle), "--cohort", str(cohort), "--out", str(out), *more]
    fixed = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    # Compiled modules are kept, as where the package is installed: two hundred files are compiled otherwise.
    setting = os.environ | fixed | {"PYTHONDONTWRITEBYTECODE": ""} | environment
    used = run_command(words, setting, out.with_suffix(".log"), checkout.name)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def run_command(words: list[str], environment: Mapping[str, str], log: Path, name: str) -> resource.struct_rusage:
    """Run the command line in a process of its own; what it used.

    Raises:
        SystemExit: if it fails.
    """
    with log.open("wb") as file:
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), descriptor) for descriptor in (1, 2)]
        command = [sys.executable, "-c", RUN, *words]
        child = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
        _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-2000:]}")
    return used


def dice_of(mask: Path, other: Path) -> float:
    """Dice of two masks on one grid."""
    a, b = (np.asarray(nib.load(path).dataobj) > 0 for path in (mask, other))
    return float(2 * (a & b).sum() / max(int(a.sum()) + int(b.sum()), 1))


def measure(old: Path, cohort: Path, threads: list[int], rounds: int, folder: Path) -> Measured:
    """Run everything; first, and not counted, what stores its programs."""
    found: Measured = {}
    chosen = variants(old, ROOT)
    caches = {"DIFFERSEG_CACHE": str(folder / "programs")}
    (folder / "programs").mkdir(mode=0o700)
    for count in threads:
        for name in ("openvino float32", "openvino"):
            checkout, environment, more = chosen[name]
            run(checkout, caches | environment, more, cohort, folder / f"{name} {count} first", count)
        for number in range(rounds):
            for name, (checkout, environment, more) in chosen.items():
                out = folder / f"{name} {count} {number}"
                cost = run(checkout, caches | environment, more, cohort, out, count)
                found.setdefault((name, count), []).append(cost)
                print(f"{name}, {count} threads: {cost[0]:.1f} CPU s, {cost[1]:.0f} MiB", flush=True)
    return found


def processor() -> str:
    """What computes, and which of the instructions that matter it has."""
    told = torch.cpu.get_capabilities()
    has = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if told.get(name)]
    return f"{told.get('cpu_name', platform.processor())} ({', '.join(has)})"


def report(found: Measured, cohort: Path, folder: Path, rounds: int, command: str) -> str:
    """The section of the page."""
    table = pd.read_csv(cohort, dtype=str)
    labels = dict(zip(table["case_id"], table.get("label", pd.Series(dtype=str))))
    lines = [
        HEADING,
        "",
        "Made by",
        "",
        f"    {command}",
        "",
        f"Whole runs of {len(table)} cases, start-up and pages included: CPU time and memory of each process, the",
        f"median of {rounds} runs in turn, and of the ratios of each turn, on {processor()}.",
        f"Dice is that of each mask with the one of `{EVERY}`, and the mean with the labels.",
    ]
    lines += [
        "",
        "| variant | threads | CPU s | times less | peak MiB | least Dice with every slice | mean Dice |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, threads), costs in found.items():
        seconds, memory = np.median(costs, axis=0)
        ratio = np.median([before[0] / cost[0] for before, cost in zip(found["before", threads], costs)])
        masks = {case: folder / f"{name} {threads} 0" / case / "mask.nii.gz" for case in labels}
        agreement = min(
            dice_of(mask, folder / f"{EVERY} {threads} 0" / case / "mask.nii.gz") for case, mask in masks.items()
        )
        known = [
            dice_of(mask, cohort.parent / labels[case]) for case, mask in masks.items() if isinstance(labels[case], str)
        ]
        mean = f"{np.mean(known):.4f}" if known else ""
        lines.append(f"| {name} | {threads} | {seconds:.1f} | {ratio:.2f} | {memory:.0f} | {agreement:.4f} | {mean} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and put the section at the end of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("cohort", type=Path, help="cohort table; with labels the Dice is told too")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="page whose section is written, up to the next heading")
    chosen = parser.parse_args()
    counts = " ".join(map(str, chosen.threads))
    words = f"python scripts/benchmark_predict.py BEFORE {chosen.cohort.name} --threads {counts}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = measure(chosen.before.resolve(), chosen.cohort.resolve(), chosen.threads, chosen.rounds, folder)
        command = f"{words} --rounds {chosen.rounds}"
        text = report(found, chosen.cohort.resolve(), folder, chosen.rounds, command)
    print(text)
    if chosen.output:
        before, _, after = chosen.output.read_text(encoding="utf-8").partition(HEADING)
        rest = after.partition("\n#")
        chosen.output.write_text(f"{before.rstrip()}\n\n{text}{''.join(rest[1:])}", encoding="utf-8")


if __name__ == "__main__":
    main()
