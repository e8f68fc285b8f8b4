"""The hashes of a bundle's files: whether it is the one that was released."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from differseg_med.atomic import write_text
from differseg_med.errors import CaseError

MANIFEST = "manifest.json"
"""In the bundle's folder: ``{"sha256": {"configs/inference.yaml": "..."}}``."""


def write_manifest(bundle: str | Path) -> Path:
    """Write the hash of every file of a bundle, for who hands it on."""
    path = Path(bundle) / MANIFEST
    hashes = {name: sha256(Path(bundle, name)) for name in _names(Path(bundle))}
    write_text(path, json.dumps({"sha256": hashes}, indent=2) + "\n")
    return path


def check_manifest(bundle: str | Path) -> None:
    """Compare a bundle's files with its manifest, if it has one.

    Raises:
        CaseError: if a file is changed, missing or not listed, or the manifest cannot be read.
    """
    path = Path(bundle) / MANIFEST
    if not path.is_file():
        return
    try:
        hashes = dict(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError("the bundle's manifest cannot be read", file=path, found=type(error).__name__) from error
    names = _names(Path(bundle))
    wrong = [f"{name} is missing" for name in sorted(hashes.keys() - set(names))]
    wrong += [f"{name} is not listed" for name in names if name not in hashes]
    wrong += [f"{name} is changed" for name in names if name in hashes and sha256(Path(bundle, name)) != hashes[name]]
    if wrong:
        raise CaseError(
            "the bundle is not the one that its manifest describes",
            file=path,
            found=", ".join(wrong[:3]) + f" and {len(wrong) - 3} more" * (len(wrong) > 3),
            remedy="Get it again; if you changed it yourself, differseg-med lint-bundle --write-manifest.",
        )


def sha256(path: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _names(bundle: Path) -> list[str]:
    """Files of a bundle, without hidden ones, results of runs inside it, and the manifest."""
    found = [path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()]
    kept = [path for path in found if path.parts[0] not in ("eval", "runs", MANIFEST)]
    return sorted(path.as_posix() for path in kept if not any(p.startswith((".", "__")) for p in path.parts))
