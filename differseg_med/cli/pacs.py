"""Commands that fetch series from a PACS and send results back."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from differseg_med import pacs
from differseg_med.errors import exit_code
from differseg_med.progress import progress_bar

app = typer.Typer(
    help=f"Fetch series by DICOMweb, and send results back. User and password: {pacs.USER}, {pacs.PASSWORD}.",
    no_args_is_help=True,
)

Url = Annotated[str, typer.Argument(help="Root of the service: https://HOST[:PORT]/dicom-web")]
Study = Annotated[str, typer.Argument(help="StudyInstanceUID.")]
CaFile = Annotated[
    Path | None, typer.Option(help="Certificates (PEM) to verify the server with.", envvar="DIFFERSEG_PACS_CA_FILE")
]
Certificate = Annotated[
    Path | None, typer.Option(help="Own certificate with key (PEM).", envvar="DIFFERSEG_PACS_CLIENT_CERTIFICATE")
]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for an answer.")]


@app.command("list")
def list_(
    url: Url, study: Study, ca_file: CaFile = None, client_certificate: Certificate = None, timeout: Timeout = 60.0
) -> None:
    """List the series of a study: number, modality, instances, SeriesInstanceUID."""

    def job() -> None:
        client = pacs.connect(url, ca_file=ca_file, client_certificate=client_certificate, timeout=timeout)
        for series in pacs.list_series(client, study):
            count = "?" if series.instances is None else series.instances
            typer.echo(f"{series.number:>4}  {series.modality:<4} {count:>6}  {series.uid}")

    sys.exit(exit_code(job))


@app.command()
def pull(
    url: Url,
    study: Study,
    output_dir: Annotated[Path, typer.Option("--out", "--output-dir", "-o", help="Folder for a folder per series.")],
    series: Annotated[list[str] | None, typer.Option(help="Only this SeriesInstanceUID (several times).")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="Only MR, CT, PT ... (several times).")] = None,
    ca_file: CaFile = None,
    client_certificate: Certificate = None,
    timeout: Timeout = 60.0,
) -> None:
    """Fetch the series of a study as DICOM files, ready for `cohort scan`."""

    def job() -> None:
        client = pacs.connect(url, ca_file=ca_file, client_certificate=client_certificate, timeout=timeout)
        pacs.pull(
            client,
            study,
            output_dir,
            series=series or (),
            modalities=modality or (),
            progress=partial(progress_bar, unit="file", leave=False),
        )

    sys.exit(exit_code(job))


@app.command()
def push(
    url: Url,
    files: Annotated[list[Path], typer.Argument(help="DICOM files, for example OUT/CASE/mask.dcm.")],
    ca_file: CaFile = None,
    client_certificate: Certificate = None,
    timeout: Timeout = 60.0,
) -> None:
    """Store DICOM files on the server and check them by fetching them again."""

    def job() -> None:
        pacs.push(pacs.connect(url, ca_file=ca_file, client_certificate=client_certificate, timeout=timeout), files)

    sys.exit(exit_code(job))
