"""The command that puts a bundle beside a PACS."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from differseg_med.cli.options import names
from differseg_med.cli.pacs import CaFile, Certificate, Timeout
from differseg_med.cli.run import Backend, Bundle, Device, Presets, Settings, Trust
from differseg_med.errors import exit_code
from differseg_med.export.registry import FORMATS

app = typer.Typer()

NAMES = ", ".join(name for name, kind in FORMATS.items() if kind.needs_dicom)


@app.command()
def serve(
    bundle: Bundle,
    dicomweb: Annotated[str, typer.Option(help="Root of the service: https://HOST[:PORT]/dicom-web", metavar="URL")],
    output_dir: Annotated[
        Path, typer.Option("--out", "--output-dir", "-o", help="Folder of the journal and of a folder per study.")
    ],
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEYWORD=VALUE",
            help='Which studies: ModalitiesInStudy=MR, "StudyDate=last 3 days", StudyDescription=*thigh*. Repeatable.',
        ),
    ] = None,
    series_rules: Annotated[
        str, typer.Option(help="Which series is which modality: a rule file (YAML), or default, mr, ct, pet.")
    ] = "default",
    need: Annotated[str, typer.Option(help="Skip studies without these modalities: t1,ct.")] = "",
    formats: Annotated[str, typer.Option(help=f"What is stored, separated by commas: {NAMES}.")] = "dicom-seg",
    once: Annotated[bool, typer.Option("--once", help="Look once, then end; 1 if a study failed.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 60.0,
    settle: Annotated[float, typer.Option(min=0, help="Seconds that a study must not have grown.")] = 60.0,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait after a failure; doubled each time.")] = 60.0,
    attempts: Annotated[int, typer.Option(min=1, help="Failures after which a study is given up.")] = 5,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="Keep the images that were fetched.")] = False,
    ca_file: CaFile = None,
    client_certificate: Certificate = None,
    timeout: Timeout = 60.0,
    device: Device = None,
    backend: Backend = None,
    presets: Presets = None,
    settings: Settings = None,
    trust: Trust = False,
) -> None:
    """Watch a DICOMweb server: segment the studies that fit, and store SEG, RTSTRUCT or SR with them, once each."""

    def job() -> None:
        from differseg_med.api.serving import Service, in_words, serve
        from differseg_med.pacs import connect

        options = {"device": device, "backend": backend, "presets": presets or (), "settings": settings or ()}
        service = Service(
            bundle,
            output_dir,
            rule or (),
            series_rules,
            names(need),
            names(formats),
            settle_s=settle,
            first_wait_s=wait,
            attempts=attempts,
            keep=keep_images,
            options={**options, "trust": trust},
        )
        connecting = partial(connect, dicomweb, ca_file=ca_file, client_certificate=client_certificate, timeout=timeout)
        entries = serve(service, connecting, every_s=every, once=once)
        typer.echo(in_words(entries))
        if any(entry.failing for entry in entries):
            raise SystemExit(1)

    sys.exit(exit_code(job))
