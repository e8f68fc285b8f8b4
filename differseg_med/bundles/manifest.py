"""The hashes of a bundle's files: whether it is the one that was released."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from differseg_med.atomic import write_text
from differseg_med.errors import CaseError

MANIFEST = "manifest.json"
"""In the bundle's folder: ``{"sha256": {"configs/inference.yaml": "..."}}``.

With ``"folders": ["configs", "models"]`` it is about these folders only: what runs, not texts and samples.
"""


def write_manifest(bundle: str | Path) -> Path:
    """Write the hash of every file of a bundle, or of the folders that its manifest names, for who hands it on.

    Raises:
        CaseError: if the manifest that is there cannot be read.
    """
    path = Path(bundle) / MANIFEST
    folders = _read(path)[0] if path.is_file() else []
    hashes = {name: sha256(Path(bundle, name)) for name in _names(Path(bundle), folders)}
    content = {"folders": folders} if folders else {}
    write_text(path, json.dumps({**content, "sha256": hashes}, indent=2) + "\n")
    return path


def check_manifest(bundle: str | Path) -> None:
    """Compare a bundle's files with its manifest, if it has one.

    Raises:
        CaseError: if a file is changed, missing or not listed, or the manifest cannot be read.
    """
    path = Path(bundle) / MANIFEST
    if not path.is_file():
        return
    folders, hashes = _read(path)
    names = _names(Path(bundle), folders)
    wrong = [f"{name} is missing" for name in sorted(hashes.keys() - set(names))]
    wrong += [f"{name} is not listed" for name in names if name not in hashes]
    wrong += [f"{name} is changed" for name in names if name in hashes and sha256(Path(bundle, name)) != hashes[name]]
    if wrong:
        raise CaseError(
            "the bundle is not the one that its manifest describes",
            file=path,
            found=", ".join(wrong[:3]) + f" and {len(wrong) - 3} more" * (len(wrong) > 3),
            remedy="Get it again; if you changed it yourself, run differseg-med lint-bundle --write-manifest.",
        )


def sha256(path: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> tuple[list[str], dict[str, str]]:
    """The folders that a manifest is about, none for all; and the hashes by name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [str(name) for name in content.get("folders", [])], dict(content["sha256"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        remedy = "Get the bundle again; if it is yours, remove the file and write it again."
        found = type(error).__name__
        raise CaseError("the bundle's manifest cannot be read", file=path, found=found, remedy=remedy) from error


def _names(bundle: Path, folders: Sequence[str] = ()) -> list[str]:
    """Files of a bundle, without hidden ones, results of runs inside it, and the manifest."""
    found = [path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()]
    kept = [path for path in found if path.parts[0] not in ("eval", "runs", MANIFEST)]
    kept = [path for path in kept if not folders or path.parts[0] in folders]
    return sorted(path.as_posix() for path in kept if not any(p.startswith((".", "__")) for p in path.parts))
