"""The command that writes a mask in other formats."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli.options import names
from differseg_med.errors import exit_code
from differseg_med.export.registry import FORMATS
from differseg_med.export.segment import SegmentInfo, read_segment, segment_of

app = typer.Typer()
logger = logging.getLogger(__name__)

NAMES = ", ".join([*FORMATS, "png"])


def _in_words(label: str) -> SegmentInfo:
    """A segment of which only words are known: nobody said which program drew it, so it counts as drawn by hand."""
    from differseg_med.planning.terminology import look_up

    terms = look_up(label, "--label")
    logger.info("%s", terms.note)
    return segment_of({**terms.block(), "SegmentAlgorithmType": "MANUAL"})


@app.command()
def export(
    mask: Annotated[str, typer.Argument(help="Mask: a file, or SEG::segment, RTSTRUCT::ROI as in a cohort table.")],
    reference: Annotated[str, typer.Option(help="Image that it belongs to: a file, or a folder with a DICOM series.")],
    output_dir: Annotated[Path, typer.Option("--out", "--output-dir", "-o", help="Folder for the files.")],
    formats: Annotated[str, typer.Option(help=f"Separated by commas: {NAMES}.")] = "nifti,seg.nrrd",
    bundle: Annotated[Path | None, typer.Option(help="Bundle whose metadata say what the mask shows.")] = None,
    segment: Annotated[Path | None, typer.Option(help="Or a JSON file with that, see docs/exports.md.")] = None,
    label: Annotated[
        str | None,
        typer.Option(help='Or a term, looked up in DICOM\'s lists: "Neoplasm", "MS lesion=brain lesion".'),
    ] = None,
    case_id: Annotated[str, typer.Option(help="For titles and BIDS names. No patient's name.")] = "case",
    resample: Annotated[bool, typer.Option("--resample", help="Allow another grid than the reference's.")] = False,
) -> None:
    """Write a mask for 3D Slicer (seg.nrrd, mrb), PACS (dicom-seg), BIDS, or as a figure; each file is verified."""
    from differseg_med.prediction.writers import export_mask

    if sum(given is not None for given in (bundle, segment, label)) > 1:
        raise typer.BadParameter("give one of --bundle, --segment and --label")
    described = bundle or segment

    def job() -> None:
        info = read_segment(described) if described else SegmentInfo("segmentation")
        if label is not None:
            info = _in_words(label)
        problems = export_mask(mask, reference, names(formats), output_dir, info, case_id=case_id, resample=resample)
        if problems:
            raise SystemExit(1)

    sys.exit(exit_code(job))
