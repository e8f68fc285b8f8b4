"""Run the checks of MONAI's model zoo on the bundles: ``python scripts/verify_bundles.py MODEL_ZOO``.

MODEL_ZOO is a clone of ``Project-MONAI/model-zoo``; its ``ci/verify_bundle.py`` is run, check by check, on copies of
the bundles. The check of the metadata fetches MONAI's schema and needs a network; that of the properties passes bundles
that name no ``supported_apps`` unseen (``tests/bundles/test_bundles.py`` asks MONAI's ``check_properties`` for all).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/inference.yaml"


def main() -> int:
    """Check every bundle and print a line per check; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    zoo = parser.parse_args().zoo.resolve()
    sys.path[:0] = [str(ROOT), str(zoo / "ci")]
    import verify_bundle as theirs

    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        shutil.copytree(ROOT / "bundles", "models")
        Path("models/model_info.json").write_text("{}")  # what the zoo has released
        for config in sorted(Path("models").glob(f"*/{CONFIG}")):
            bundle = config.parents[1].name
            path = f"models/{bundle}"
            checks: dict[str, Callable[[], object]] = {
                "directory": lambda name=bundle: theirs.verify_bundle_directory("models", name, "full"),
                "version and changelog": lambda name=bundle: theirs.verify_version_changes("models", name),
                "metadata": lambda place=path: theirs.verify_metadata_format(place),
                "properties": lambda name=bundle: theirs.verify_bundle_properties("models", name),
                "data shape": lambda place=path: theirs.verify_data_shape(place, "network_def", CONFIG),
                "TorchScript": lambda place=path: theirs.verify_torchscript(place, "network_def", CONFIG),
            }
            for title, check in checks.items():
                try:
                    check()
                    print(f"passed: {bundle}: {title}", flush=True)
                except Exception as error:  # the other checks are worth running
                    failed += 1
                    print(f"FAILED: {bundle}: {title}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
