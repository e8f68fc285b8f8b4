"""Install the package without extras under each Python, and at the lowest versions it promises; predict the sample.

    python scripts/try_versions.py python3.10 python3.13 [--lowest python3.10] [--keep DIR]

Each Python gets a fresh environment: `pip install .`, then the public API is imported and the two sample patients of
the sarcoma bundle are segmented and scored. `--lowest` pins every dependency of pyproject.toml to its floor. Prints a
table and ends with an error if one of them fails.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
VERSIONS = """
import importlib.metadata as m, platform
names = ("torch", "monai", "numpy", "pydicom", "SimpleITK")
print("Python ", platform.python_version(), *(f", {name} {m.version(name)}" for name in names), sep="")
"""


def floors() -> list[str]:
    """Every dependency of pyproject.toml, pinned to the lowest version that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [re.sub(r"\s*>=\s*", "==", line.split(";")[0].strip()) for line in project["dependencies"]]


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command; its last lines in the error if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command[:4]))}: {(done.stdout + done.stderr).strip()[-1500:]}")
    return done.stdout


def try_python(python: str, folder: Path, pins: list[str]) -> tuple[str, str]:
    """Versions, and Dice of the sample's patients, of a fresh environment; the working folder is not the checkout."""
    environment = folder / "environment"
    run(python, "-m", "venv", environment, cwd=folder)
    mine = environment / "bin" / "python"
    run(mine, "-m", "pip", "install", "--quiet", str(ROOT), *pins, cwd=folder)
    versions = run(mine, "-c", VERSIONS, cwd=folder).strip()
    run(mine, "-c", "import differseg_med as ds; ds.predict, ds.read_cohort, ds.DifferSeg", cwd=folder)
    command = environment / "bin" / "differseg-med"
    table = BUNDLE / "sample" / "cohort.csv"
    run(command, "evaluate", "--bundle", BUNDLE, "--cohort", table, "--out", folder / "out", cwd=folder)
    lines = (folder / "out" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    dice = lines[0].split(",").index("dice")
    return versions, " / ".join(f"{float(line.split(',')[dice]):.3f}" for line in lines[1:])


def main() -> int:
    """Try each and print a table row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="Python programs")
    parser.add_argument("--lowest", action="append", default=[], help="Python program to try with the lowest versions")
    parser.add_argument("--keep", type=Path, help="folder for the environments (default: temporary, removed)")
    arguments = parser.parse_args()
    failed = 0
    print("| versions | which | Dice of the sample |\n|---|---|---|", flush=True)
    for python, which in [(p, "newest") for p in arguments.pythons] + [(p, "lowest") for p in arguments.lowest]:
        folder = Path(tempfile.mkdtemp(prefix="versions-", dir=arguments.keep))
        try:
            versions, dice = try_python(python, folder, floors() if which == "lowest" else [])
            print(f"| {versions} | {which} | {dice} |", flush=True)
        except RuntimeError as error:
            failed += 1
            print(f"| {python} | {which} | **fails**: {str(error)!r} |", flush=True)
        finally:
            if not arguments.keep:
                shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
