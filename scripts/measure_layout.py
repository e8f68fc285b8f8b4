"""How far one job is spread over the package: files that a case passes, names with two meanings, sizes.

    python scripts/measure_layout.py            # the static figures
    python scripts/measure_layout.py --trace    # also predicts cases of the sample and counts what one passes

Prints a table with the limits that the project has set itself and ends with an error if one is not kept.
"""

from __future__ import annotations

import argparse
import ast
import csv
import inspect
import re
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "differseg_med"
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"

LIMITS = {
    "files passed by one predicted case": 25,
    "lines of bundles in more than one, percent": 30,
    "characters of a bundle's longest line": 120,
    "names defined in more than one module": 20,
    "folders of the job that is spread most": 2,
    "lines of the longest file": 400,
    "lines of the longest function": 60,
}

JOBS = {
    "predict": "prediction",
    "evaluate": "evaluation",
    "train": "training",
    "scan": "cohort/scan",
    "check": "cohort/check",
    "register": "cohort/registration",
}
"""Jobs by the folder that each is to be found in."""


def sources() -> dict[str, ast.Module]:
    """The syntax tree of each module by its path in the package."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def defined(tree: ast.Module) -> Iterator[str]:
    """Public names that a module defines at its top level; loggers aside."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        else:
            continue
        yield from (n for n in names if not n.startswith("_") and n not in ("logger", "app"))


def shared_names(modules: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Names that stand in several modules; commands and the Python API are called like the job that they start."""
    places = defaultdict(list)
    for module, tree in modules.items():
        if module.startswith(("cli/", "api/")) or module in ("bundle.py", "__init__.py"):
            continue
        for name in dict.fromkeys(defined(tree)):
            places[name].append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def imports(tree: ast.Module) -> set[str]:
    """Folders of the package that a module imports from, as ``prediction`` or ``cohort/scan``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("differseg_med."):
            parts = node.module.split(".")[1:]
            found |= {"/".join(parts[:depth]) for depth in (1, 2)}
    return found


def job_folders(modules: dict[str, ast.Module]) -> dict[str, list[str]]:
    """For each job the folders of jobs that its code imports, its own first."""
    spread = {}
    for job, folder in JOBS.items():
        own = [tree for module, tree in modules.items() if module.startswith(f"{folder}/")]
        reached = set().union(*(imports(tree) for tree in own)) & set(JOBS.values()) - {folder}
        spread[job] = [folder, *sorted(reached)]
    return spread


def longest(modules: dict[str, ast.Module]) -> tuple[tuple[int, str], tuple[int, str]]:
    """Lines and name of the longest file and of the longest function."""
    files = [(len((PACKAGE / m).read_text(encoding="utf-8").splitlines()), m) for m in modules]
    functions = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{module}: {node.name}")
        for module, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return max(files), max(functions)


def calls_of_a_run(cases: int) -> Counter[tuple[str, str]]:
    """How often each function of ours is called, by file and name, in a run of the evaluator over so many cases.

    Bodies of modules and classes do not count: they are run where something is imported for the first time. The
    settings are the sample's, with one plane and a coarser grid, which pass the same functions in less time.
    """
    import torch
    from monai.bundle import ConfigParser

    called: Counter[tuple[str, str]] = Counter()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            called[(Path(file).relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname)] += 1

    with tempfile.TemporaryDirectory() as folder:
        sample = BUNDLE / "sample"
        with (sample / "cohort.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:cases]
        for row in rows:
            row |= {name: str(sample / cell) for name, cell in row.items() if (sample / cell).is_file() and cell}
        table = Path(folder) / "cohort.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / "configs" / "inference.yaml")])
        given = {"bundle_root": str(BUNDLE), "cohort": str(table), "output_dir": f"{folder}/out", "device": "cpu"}
        parser.update(given | {"planes": ["axial"], "pixdim": [4.0, 4.0, 4.0]})
        torch.set_num_threads(1)
        evaluator = parser.get_parsed_content("evaluator")
        sys.setprofile(watch)
        threading.setprofile(watch)  # masks are written in a thread
        try:
            evaluator.run()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    # Networks are the model itself: how many files that has is no matter of layout.
    return Counter({place: times for place, times in called.items() if not place[0].startswith("networks/")})


def passed_files() -> tuple[Counter[str], Counter[str]]:
    """Functions per file that a run of one case passes, and those among them that a second case passes again.

    The rest is what a run does once, however many cases it has: lock, manifest, page.
    """
    one, two = calls_of_a_run(1), calls_of_a_run(2)
    return Counter(file for file, _ in one), Counter(file for file, name in two if two[file, name] > one[file, name])


def shared_lines() -> tuple[int, int, int, str]:
    """Lines of our bundles' configurations that stand in more than one of them, all lines, and the longest one.

    Remarks and blank lines do not count; a line that stands in two bundles counts twice, as it is kept twice.
    """
    places = defaultdict(set)
    lines = []
    for file in sorted((ROOT / "bundles").glob("*/configs/*.yaml")):
        for line in file.read_text(encoding="utf-8").splitlines():
            text = re.sub(r"(^|\s)#.*", "", line).strip()
            if text:
                places[text].add(file.parents[1].name)
                lines.append((text, len(line), f"{file.parents[1].name}/{file.name}"))
    shared = sum(len(places[text]) > 1 for text, _, _ in lines)
    _, length, where = max(lines, key=lambda line: line[1])
    return shared, len(lines), length, where


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="store_true", help="also predict and count what a case passes")
    parser.add_argument("--list", action="store_true", help="list names and files, with functions per run and case")
    options = parser.parse_args()
    modules = sources()
    names, spread = shared_names(modules), job_folders(modules)
    (file_lines, file), (function_lines, function) = longest(modules)
    widest = max(spread, key=lambda job: len(spread[job]))
    shared, lines, line_length, line_of = shared_lines()
    rows: dict[str, tuple[int, str]] = {
        "names defined in more than one module": (len(names), ""),
        "folders of the job that is spread most": (len(spread[widest]), f"{widest}: {', '.join(spread[widest])}"),
        "lines of the longest file": (file_lines, file),
        "lines of the longest function": (function_lines, function),
        "lines of bundles in more than one, percent": (round(100 * shared / lines), f"{shared} of {lines}"),
        "characters of a bundle's longest line": (line_length, line_of),
    }
    if options.trace:
        run, case = passed_files()
        detail = f"{sum(case.values())} functions; with what a run does once {len(run)} files, {sum(run.values())}"
        rows = {"files passed by one predicted case": (len(case), detail), **rows}
    for what, (count, note) in rows.items():
        print(f"{what:42} {count:4}  (limit {LIMITS[what]})  {note}")
    if options.list:
        print(*(f"  {name}: {', '.join(found)}" for name, found in names.items()), sep="\n")
        if options.trace:
            print(*(f"  {run[file]:3} {case[file]:3} {file}" for file in sorted(run)), sep="\n")
    return int(any(count > LIMITS[what] for what, (count, _) in rows.items()))


if __name__ == "__main__":
    raise SystemExit(main())
