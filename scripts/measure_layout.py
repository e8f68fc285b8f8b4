"""How far one job is spread over the package: files that a case passes, names with two meanings, sizes.

    python scripts/measure_layout.py            # the static figures
    python scripts/measure_layout.py --trace    # also predicts one case of the sample and counts what it passes

Prints a table with the limits that the project has set itself and ends with an error if one is not kept.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
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


def passed_by_one_case() -> Counter[str]:
    """Functions per file that one case of the sample passes, from the start of the evaluator's run on."""
    import torch
    from monai.bundle import ConfigParser

    passed: set[tuple[str, str]] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)):
            passed.add((Path(file).relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname))

    with tempfile.TemporaryDirectory() as folder:
        lines = (BUNDLE / "sample" / "cohort.csv").read_text(encoding="utf-8").splitlines()[:2]
        table = BUNDLE / "sample" / ".one_case.csv"
        try:
            table.write_text("\n".join(lines) + "\n", encoding="utf-8")
            parser = ConfigParser()
            parser.read_config(BUNDLE / "configs" / "inference.yaml")
            parser.update({"bundle_root": str(BUNDLE), "cohort": str(table), "output_dir": folder, "device": "cpu"})
            torch.set_num_threads(1)
            evaluator = parser.get_parsed_content("evaluator")
            sys.setprofile(watch)
            evaluator.run()
        finally:
            sys.setprofile(None)
            table.unlink(missing_ok=True)
    # Networks are the model itself: how many files that has is no matter of layout.
    return Counter(file for file, _ in passed if not file.startswith("networks/"))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="store_true", help="also predict one case and count what it passes")
    parser.add_argument("--list", action="store_true", help="list the files and names that were counted")
    options = parser.parse_args()
    modules = sources()
    names, spread = shared_names(modules), job_folders(modules)
    (file_lines, file), (function_lines, function) = longest(modules)
    widest = max(spread, key=lambda job: len(spread[job]))
    rows: dict[str, tuple[int, str]] = {
        "names defined in more than one module": (len(names), ""),
        "folders of the job that is spread most": (len(spread[widest]), f"{widest}: {', '.join(spread[widest])}"),
        "lines of the longest file": (file_lines, file),
        "lines of the longest function": (function_lines, function),
    }
    if options.trace:
        passed = passed_by_one_case()
        detail = f"{sum(passed.values())} functions in {len({Path(f).parent for f in passed})} folders"
        rows = {"files passed by one predicted case": (len(passed), detail), **rows}
    for what, (count, note) in rows.items():
        print(f"{what:42} {count:4}  (limit {LIMITS[what]})  {note}")
    if options.list:
        print(*(f"  {name}: {', '.join(found)}" for name, found in names.items()), sep="\n")
        if options.trace:
            print(*(f"  {count:3} {file}" for file, count in sorted(passed.items())), sep="\n")
    return int(any(count > LIMITS[what] for what, (count, _) in rows.items()))


if __name__ == "__main__":
    raise SystemExit(main())
