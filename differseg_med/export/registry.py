"""The formats that a mask can be written in, each in a file of its own that is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from differseg_med.export.segmented import Notes, Segmented


@dataclass(frozen=True)
class Format:
    """A format of a mask.

    Args:
        file: what it is called in the case's folder.
        writer: the function that writes it and returns notes for the user, as ``module:function``; or itself.
        needs_dicom: whether it refers to the DICOM images under the mask: there is none of a NIfTI.
        needs: another format that it refers to, which is written before it.
    """

    file: str
    writer: str | Callable[[Segmented, Path], Notes]
    needs_dicom: bool = False
    needs: str = ""

    def write(self, segmented: Segmented, path: Path) -> Notes:
        """Write ``path``, read it back and compare.

        Raises:
            CaseError: if it cannot be written faithfully.
        """
        if not isinstance(self.writer, str):
            return self.writer(segmented, path)
        module, _, function = self.writer.partition(":")
        notes: Notes = getattr(import_module(module), function)(segmented, path)
        return notes


FORMATS = {
    "nifti": Format("mask.nii.gz", "differseg_med.export.nifti:write_nifti"),
    "seg.nrrd": Format("mask.seg.nrrd", "differseg_med.export.seg_nrrd:write_seg_nrrd"),
    "dicom-seg": Format("mask.dcm", "differseg_med.export.dicom_seg:write_dicom_seg", needs_dicom=True),
    "dicom-seg-rle": Format("mask.rle.dcm", "differseg_med.export.dicom_seg:write_dicom_seg_rle", needs_dicom=True),
    "rtstruct": Format("mask.rtstruct.dcm", "differseg_med.export.rtstruct:write_rtstruct", needs_dicom=True),
    "dicom-sr": Format(
        "mask.sr.dcm", "differseg_med.export.dicom_sr:write_dicom_sr", needs_dicom=True, needs="dicom-seg"
    ),
    "probability": Format("probability.nrrd", "differseg_med.export.seg_nrrd:write_probability"),
    "scene": Format("scene", "differseg_med.export.scene:write_scene"),
    "mrb": Format("scene.mrb", "differseg_med.export.scene:write_mrb"),
    "bids": Format("derivatives", "differseg_med.export.bids:write_bids"),
}
"""Formats by name. One more is a line here and a file beside this one."""
