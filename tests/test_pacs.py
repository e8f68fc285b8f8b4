"""DICOMweb against a real Orthanc: series there and back, refusals in words, and secrets that stay secret."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from support.orthanc import SECRET, Orthanc, fill, orthanc
from support.servers import free_port
from support.synthetic import BUNDLE, ROOT
from typer.testing import CliRunner

from differseg_med import pacs
from differseg_med.cli import app
from differseg_med.errors import CaseError
from differseg_med.io.volumes import load_volume

SHARED = ROOT.parent / "shared" / "data" / "sts_dicom" / "STS_041"


@pytest.fixture(scope="module")
def server(require_program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A server that holds T1 and PET of STS_041, stored by its REST interface, not by our code."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data/sts_dicom, beside the project")
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc(require_program, folder) as url:
        files = sorted(SHARED.glob("MR_T1/image/*")) + sorted(SHARED.glob("PET/image/*"))
        fill(url, files)
        yield Orthanc(url, str(pydicom.dcmread(files[0]).StudyInstanceUID), folder / "orthanc.log")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pacs.USER, "reader")
    monkeypatch.setenv(pacs.PASSWORD, SECRET)


def test_the_server_lists_series_as_the_files_say(server: Orthanc):
    found = pacs.list_series(pacs.connect(server.url), server.study)
    files = [pydicom.dcmread(f) for s in ("MR_T1", "PET") for f in (SHARED / s / "image").iterdir()]
    own = [d for d in files if d.StudyInstanceUID == server.study]
    assert {(s.uid, s.modality, s.instances) for s in found} == {
        (d.SeriesInstanceUID, d.Modality, sum(o.SeriesInstanceUID == d.SeriesInstanceUID for o in own)) for d in own
    }


def test_pulled_series_are_those_that_were_stored(server: Orthanc, tmp_path: Path):
    (folder,) = pacs.pull(pacs.connect(server.url), server.study, tmp_path / "in", modalities=["MR"])
    files = sorted(folder.glob("*.dcm"))
    stored = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, (SHARED / "MR_T1" / "image").iterdir())}
    pulled = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, files)}
    assert pulled.keys() == stored.keys()
    assert all(pulled[uid].PixelData == stored[uid].PixelData for uid in stored)
    number = next(iter(stored.values())).SeriesNumber
    assert folder.name == f"{number:03d}_MR"
    ours, theirs = load_volume(folder), load_volume(SHARED / "MR_T1" / "image")
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_allclose(ours.affine, theirs.affine)


def test_mask_goes_to_the_server_as_seg_and_comes_back_with_the_same_voxels(server: Orthanc, tmp_path: Path):
    """The commands a user types: pull, export, push, pull."""

    def run(*arguments: str | Path) -> None:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output

    run("pacs", "pull", server.url, server.study, "--modality", "MR", "--out", tmp_path / "in")
    (series,) = (tmp_path / "in").iterdir()
    mask = BUNDLE / "sample" / "STS_041" / "mask.nii.gz"
    run("export", mask, "--reference", series, "--formats", "dicom-seg", "--bundle", BUNDLE, "--out", tmp_path / "seg")
    (seg,) = (tmp_path / "seg").rglob("*.dcm")
    run("pacs", "push", server.url, seg)
    run("pacs", "pull", server.url, server.study, "--modality", "SEG", "--out", tmp_path / "back")
    (back,) = (tmp_path / "back").rglob("*.dcm")
    image = nib.load(mask)
    expected = np.argwhere(np.asarray(image.dataobj))
    volume = hd.seg.segread(back).get_volume(combine_segments=True)  # LPS
    found = nib.affines.apply_affine(np.diag([-1, -1, 1, 1]) @ volume.affine, np.argwhere(volume.array))
    world = nib.affines.apply_affine(image.affine, expected)
    assert len(found) == len(world) > 1000
    np.testing.assert_allclose(found[np.lexsort(found.round(1).T)], world[np.lexsort(world.round(1).T)], atol=1e-2)
    assert pydicom.dcmread(back).StudyInstanceUID == server.study


def test_what_the_server_does_not_have_is_said(server: Orthanc, tmp_path: Path):
    client = pacs.connect(server.url)
    with pytest.raises(CaseError, match="no series of this study"):
        pacs.pull(client, "1.2.3", tmp_path)
    with pytest.raises(CaseError, match="not a StudyInstanceUID"):
        pacs.pull(client, "Muster^Anna", tmp_path)
    with pytest.raises(CaseError, match=r"no such series.*1\.2\.3"):
        pacs.pull(client, server.study, tmp_path, series=["1.2.3"])
    with pytest.raises(CaseError, match=r"no series of this modality.*expected US, found MR"):
        pacs.pull(client, server.study, tmp_path, modalities=["US"])
    assert list(tmp_path.iterdir()) == []


def test_a_series_that_comes_incomplete_leaves_no_folder_and_spares_the_old_one(
    server: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    client = pacs.connect(server.url)
    (folder,) = pacs.pull(client, server.study, tmp_path, modalities=["MR"])
    before = sorted(folder.iterdir())
    complete = client.search_for_instances
    # Without paging: every page lacks the same instance.
    monkeypatch.setattr(client, "search_for_instances", lambda *a, **k: complete(*a)[:-1])
    with pytest.raises(CaseError, match=f"incomplete .expected {len(before)} instances, found {len(before) - 1}"):
        pacs.pull(client, server.study, tmp_path, modalities=["MR"])
    assert sorted(folder.iterdir()) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_only_dicom_is_pushed(server: Orthanc, tmp_path: Path):
    (tmp_path / "mask.dcm").write_text("no DICOM")
    with pytest.raises(CaseError, match=r"mask.dcm: this is not a DICOM file"):
        pacs.push(pacs.connect(server.url), [tmp_path / "mask.dcm"])


def test_a_wrong_password_is_refused_and_told_to_nobody(
    server: Orthanc, caplog, capfd, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(pacs.PASSWORD, "lily-9902")
    with pytest.raises(CaseError, match="answered 401: it asks for a user") as caught:
        pacs.list_series(pacs.connect(server.url), server.study)
    told = f"{caught.value} {caplog.text} {''.join(capfd.readouterr())}"
    assert "lily-9902" not in told
    monkeypatch.delenv(pacs.PASSWORD)
    with pytest.raises(CaseError, match=f"belong together .expected {pacs.PASSWORD}"):
        pacs.connect(server.url)


def test_logs_name_neither_password_nor_patient(server: Orthanc, tmp_path: Path, caplog, capfd):
    caplog.set_level(logging.INFO)
    done = CliRunner().invoke(app, ["pacs", "pull", server.url, server.study, "--out", str(tmp_path)])
    assert done.exit_code == 0
    patient = pydicom.dcmread(next((SHARED / "MR_T1" / "image").iterdir()))
    told = " ".join([done.output, caplog.text, *capfd.readouterr(), *(p.name for p in tmp_path.rglob("*"))]).lower()
    assert "instances" in told
    for secret in (SECRET, str(patient.PatientName), str(patient.PatientID), server.study):
        assert secret.lower() not in told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://localhost/dicom-web", "not the address"),
        ("localhost:8042", "not the address"),
        (f"https://reader:{SECRET}@localhost/dicom-web", "no user or password in the address"),
    ],
)
def test_bad_addresses_are_refused(url: str, words: str):
    with pytest.raises(CaseError, match=words) as caught:
        pacs.connect(url)
    assert SECRET not in str(caught.value)


def test_a_server_that_is_not_there():
    with pytest.raises(CaseError, match=r"localhost:\d+ does not answer"):
        pacs.list_series(pacs.connect(f"http://localhost:{free_port()}/dicom-web"), "1.2.3")


def test_a_password_over_http_to_another_machine_is_warned_of(caplog):
    pacs.connect("http://pacs.example.org/dicom-web")
    assert "travels unencrypted" in caplog.text
    caplog.clear()
    pacs.connect("https://pacs.example.org/dicom-web")
    pacs.connect("http://localhost/dicom-web")
    assert not caplog.text


@contextmanager
def tls_in_front_of(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS and hands everything on; Debian's Orthanc 1.10.1 crashes when it does so itself."""

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as inner:
                back = threading.Thread(target=self.copy, args=(inner, self.request), daemon=True)
                back.start()
                self.copy(self.request, inner)

        @staticmethod
        def copy(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    target.sendall(data)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_tls_is_checked_with_the_given_certificates(server: Orthanc, require_program, tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate]
    subprocess.run([require_program("openssl"), *new, *subject], check=True, capture_output=True)
    with tls_in_front_of(urlsplit(server.url).port, certificate, key) as port:
        url = f"https://localhost:{port}/dicom-web"
        with pytest.raises(CaseError, match=r"certificate of localhost:\d+ is not trusted. Give .* with --ca-file"):
            pacs.list_series(pacs.connect(url), server.study)
        assert pacs.list_series(pacs.connect(url, ca_file=certificate), server.study)
    with pytest.raises(CaseError, match="no such certificate"):
        pacs.connect(url, ca_file=tmp_path / "none.pem")


def test_without_dicomweb_client_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client.api", None)
    with pytest.raises(CaseError, match=r'pip install "differseg-med\[pacs\]"'):
        pacs.connect("http://localhost/dicom-web")
