"""Where the mask of a case lies in a folder of predictions: ours, and as other programs and people leave them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from differseg_med.errors import CaseError
from differseg_med.export.registry import FORMATS
from differseg_med.io.headers import VOLUMES
from differseg_med.runs.names import EARLIER

MASK, IMAGE2D_MASK = "mask.nii.gz", "mask.png"

_DICOM = (".dcm",)
_FLAT = (".seg.nrrd", *VOLUMES, *_DICOM)
_OTHERS = {FORMATS["probability"].file}
"""Results of ours beside a mask that are none."""

_BIDS = re.compile(r"sub-([A-Za-z0-9]+)_.*_(?:mask|dseg)\.nii(?:\.gz)?")


def mask_file(predictions_dir: Path, case_id: str) -> Path:
    """The predicted mask of a case as a run of ours writes it: ``<case_id>/mask.nii.gz``, of a picture ``mask.png``.

    Other programs' pictures may also be saliency maps ``<case_id>.png``. Without any, the first of these names.
    """
    folder = predictions_dir / case_id
    names = (folder / MASK, folder / IMAGE2D_MASK, predictions_dir / f"{case_id}.png")
    return next((path for path in names if path.is_file()), names[0])


class Predictions:
    """The masks in a folder, whoever wrote them.

    Args:
        folder: of the predictions.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def find(self, case_id: str) -> Path:
        """The predicted mask of a case; without any, the name that a run of ours would give it.

        After those of `mask_file`: one file ``<case_id>`` with an ending of a volume or of DICOM beside the others, as
        nnU-Net and MSD have it; in the case's folder the one ``.seg.nrrd``, volume or DICOM file (SEG, RTSTRUCT); a
        mask of a BIDS data set whose sidecar names the case, or whose subject does.

        Raises:
            CaseError: if several files could be meant.
        """
        own = mask_file(self.folder, case_id)
        if own.is_file():
            return own
        flat = [path for ending in _FLAT if (path := self.folder / f"{case_id}{ending}").is_file()]
        inside = sorted(path for path in (self.folder / case_id).glob("*") if path.is_file())
        drawn = [path for path in inside if path.name.endswith((".seg.nrrd", ".seg.nhdr"))]
        volumes = [path for path in inside if path.name.lower().endswith(VOLUMES) and path.name not in _OTHERS]
        objects = [path for path in inside if path.name.lower().endswith(_DICOM)]
        for found in (flat, drawn, volumes, objects) if flat or inside else (self._bids_of(case_id),):
            if len(found) > 1:
                raise CaseError(
                    "several files could be the prediction",
                    case=case_id,
                    file=self.folder / case_id,
                    found=", ".join(path.name for path in found[:5]),
                    remedy="Leave the one that is meant, or name it mask.nii.gz.",
                )
            if found:
                return found[0]
        return own

    def _bids_of(self, case_id: str) -> list[Path]:
        letters = re.sub(r"[^A-Za-z0-9]", "", case_id.removeprefix("sub-"))
        return self._bids.get(case_id) or self._bids.get(letters) or []

    @cached_property
    def _bids(self) -> dict[str, list[Path]]:
        """Masks of a BIDS data set by the case that their sidecar names, else by subject."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("sub-*.nii*")):
            match = _BIDS.fullmatch(path.name)
            if match and EARLIER not in path.parts:
                found.setdefault(_case_of(path) or match[1], []).append(path)
        return found


def predicted_ids(predictions_dir: Path) -> set[str]:
    """Names of the cases that a folder seems to have predictions of."""
    found = {path.parent.name for name in (MASK, IMAGE2D_MASK) for path in predictions_dir.glob(f"*/{name}")}
    files = [path for path in predictions_dir.glob("*") if path.is_file()]
    found |= {path.stem for path in files if path.suffix == ".png"}
    return found | {_without(path.name, VOLUMES) for path in files if path.name.lower().endswith(VOLUMES)}


def _without(name: str, endings: Iterable[str]) -> str:
    return next(name[: -len(e)] for e in sorted(endings, key=len, reverse=True) if name.lower().endswith(e))


def _case_of(mask: Path) -> str:
    try:
        sidecar = json.loads(mask.with_name(re.sub(r"\.nii(\.gz)?$", ".json", mask.name)).read_text(encoding="utf-8"))
        return str(sidecar.get("CohortCase") or "")
    except (OSError, ValueError, AttributeError):
        return ""
