"""A bundle beside a PACS: a real Orthanc and kills at every step, and a server that lies and fails."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from support.hostile_pacs import STUDY, Answer, HostilePacs, described, serving, tag
from support.orthanc import SECRET, fill, orthanc
from support.servers import free_port
from support.synthetic import BUNDLE, ROOT, SMALL, tiny_network
from typer.testing import CliRunner

from differseg_med import pacs
from differseg_med.api import serving as service
from differseg_med.cli import app
from differseg_med.errors import VERBOSE, CaseError
from differseg_med.pacs import connection
from differseg_med.pacs.journal import FAILED, SEEN, SKIPPED, STORED, Journal, wait_s
from differseg_med.pacs.studies import list_studies, parse_rule

SLAB = ROOT / "tests" / "data" / "sts_041_slab.zip"
Command = Callable[..., int]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a tiny network whose masks are not empty."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_network().state_dict(), path)
    settings = {**SMALL, "pixdim": "[4, 4, 4]", "checkpoint": path, "threshold": 0.1}
    return [f"--set={name}={value}" for name, value in settings.items()]


@pytest.fixture
def serve(network: list[str], tmp_path: Path) -> Command:
    """Look once, with these options over those of all tests; the exit code."""

    def run(url: str, *options: str) -> int:
        words = ["serve", "--bundle", str(BUNDLE), "--dicomweb", url, "--out", str(tmp_path / "out"), "--once"]
        return CliRunner().invoke(app, [*words, "--settle", "0", "--wait", "0", *network, *options]).exit_code

    return run


def killed_at(module: object, name: str, job: Callable[[], object], *, after: bool) -> None:
    """Do a job in a process that kills itself with SIGKILL before, or after, the first call of a function."""
    whole = getattr(module, name)

    def last(*arguments: object, **options: object) -> None:
        if after:
            whole(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        setattr(module, name, last)
        job()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def entries(out: Path) -> list:
    journal = Journal(out)
    found = journal.entries()
    journal.close()
    return found


@pytest.fixture(scope="module")
def pacs_with_study(require_program, tmp_path_factory: pytest.TempPathFactory):
    """A real server with the T1 of a patient: its address, and the header of an image."""
    folder = tmp_path_factory.mktemp("orthanc")
    with zipfile.ZipFile(SLAB) as archive:
        archive.extractall(folder / "slab")
    images = [path for path in (folder / "slab").rglob("*.dcm") if path.parent.name == "MR_T1"]
    with orthanc(require_program, folder) as url:
        fill(url, images)
        yield url, pydicom.dcmread(images[0], stop_before_pixels=True)


def results(client: connection.Client, study: str) -> list[str]:
    """SOP Instance UIDs of what is not an image."""
    found = [series.uid for series in pacs.list_series(client, study) if series.modality in ("SEG", "SR")]
    return sorted(i["00080018"]["Value"][0] for series in found for i in client.search_for_instances(study, series))


def test_each_result_is_stored_once_whatever_kills_the_process(
    serve: Command, pacs_with_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, capfd
):
    url, patient = pacs_with_study
    monkeypatch.setenv(pacs.USER, "reader")
    monkeypatch.setenv(pacs.PASSWORD, SECRET)
    monkeypatch.delenv(VERBOSE, raising=False)
    caplog.set_level(logging.INFO)
    client, study, out = pacs.connect(url), patient.StudyInstanceUID, tmp_path / "out"

    def once() -> int:
        return serve(url, "--formats", "dicom-sr", "--rule", "ModalitiesInStudy=MR", "--need", "t1")

    killed_at(Journal, "predicted", once, after=False)  # computed, not written down
    assert results(client, study) == []
    killed_at(service, "push", once, after=False)
    assert results(client, study) == []
    made = sorted(out.glob("*/results/*/*.dcm"))
    assert [path.name for path in made] == ["mask.dcm", "mask.sr.dcm"]
    uids = sorted(pydicom.dcmread(path).SOPInstanceUID for path in made)
    killed_at(service, "push", once, after=True)  # the first file is stored, and nobody knows
    assert set(results(client, study)) < set(uids)
    killed_at(Journal, "finish", once, after=False)  # all are, and nobody knows
    assert results(client, study) == uids
    before = {path: path.stat().st_mtime_ns for path in made}
    for _ in range(2):  # the second time the study has grown, by our own results
        assert once() == 0
        assert results(client, study) == uids
    (entry,) = entries(out)
    assert (entry.state, entry.attempts) == (STORED, 0)
    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert not (out / entry.study / "images").exists()
    check_mask(client, study, made[0], tmp_path / "back")
    told = " ".join([caplog.text, *capfd.readouterr(), *(str(path.relative_to(out)) for path in out.rglob("*"))])
    kept = [path for path in out.rglob("*") if path.suffix in (".sqlite", ".csv", ".json", ".yaml")]
    for secret in (str(patient.PatientName), str(patient.PatientID), study, SECRET):
        assert secret not in told
        assert not [path for path in kept if secret.encode() in path.read_bytes()]


def check_mask(client: connection.Client, study: str, file: Path, folder: Path) -> None:
    """The segmentation on the server has the voxels of the mask."""
    pacs.pull(client, study, folder, modalities=["SEG"])
    (seg,) = folder.rglob("*.dcm")
    mask = np.asarray(nib.load(file.with_name("mask.nii.gz")).dataobj)
    assert hd.seg.segread(seg).get_volume(combine_segments=True).array.sum() == mask.sum() > 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "WAIT_MS", 1)
    for name in (pacs.USER, pacs.PASSWORD):
        monkeypatch.delenv(name, raising=False)
    with serving() as found:
        yield found


def test_a_failure_is_tried_again_later_and_not_for_ever(serve: Command, server: HostilePacs, tmp_path: Path):
    server.answers = {"instance": Answer(status=500)}
    assert serve(server.url, "--wait", "3600", "--attempts", "3") == 1
    (entry,) = entries(tmp_path / "out")
    assert (entry.state, entry.attempts) == (SEEN, 1)
    assert "answered 500" in entry.reason
    server.asked.clear()
    assert serve(server.url, "--attempts", "3") == 1  # not due: only asked which studies there are
    assert len([path for path in server.asked if "/series" in path]) == 0
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as base:
        base.execute("UPDATE studies SET due = 0")
    for state in (SEEN, FAILED, FAILED):
        assert serve(server.url, "--attempts", "3") == 1
        assert entries(tmp_path / "out")[0].state == state
    assert entries(tmp_path / "out")[0].attempts == 3
    assert not list((tmp_path / "out").glob("*/images"))
    assert [wait_s(n, 60) for n in (1, 2, 3, 7, 1000)] == [60, 120, 240, 3600, 3600]


def test_studies_that_are_not_wanted_or_not_complete_yet(serve: Command, server: HostilePacs, tmp_path: Path):
    assert serve(server.url, "--settle", "3600") == 0
    assert entries(tmp_path / "out")[0].state == SEEN
    assert not [path for path in server.asked if "/instances" in path]
    for number, image in enumerate(server.images.values()):
        image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], [2, 2]
        image.ImagePositionPatient, image.FrameOfReferenceUID = [0, 0, 3 * number], STUDY
    assert serve(server.url, "--need", "pet") == 0  # it has a CT
    (entry,) = entries(tmp_path / "out")
    assert (entry.state, entry.reason) == (SKIPPED, "no series that the rules take for pet")
    assert [path.name for path in (tmp_path / "out" / entry.study).iterdir()] == []
    server.asked.clear()
    assert serve(server.url) == 0
    assert len([path for path in server.asked if "/series" in path]) == 0


STUDIES = {
    "no list": Answer(body=b"7"),
    "no json": Answer(body=b"[{"),
    "no uid": described([{}]),
    "a path": described([{"0020000D": tag("../../victim", "UI")}]),
    "twice": described([{"0020000D": tag(STUDY, "UI")}] * 2),
    "huge": described([{"0020000D": tag(STUDY, "UI"), "00201208": tag(10**12, "IS")}]),
    "busy": Answer(status=503),
    "elsewhere": Answer(status=302, headers={"Location": "http://127.0.0.2:1/x"}),
}


@pytest.mark.parametrize("name", STUDIES)
def test_studies_that_cannot_be(name: str, serve: Command, server: HostilePacs, tmp_path: Path, caplog):
    server.answers = {"studies": STUDIES[name]}
    assert serve(server.url) == 1
    assert "127.0.0.1" in caplog.text or "description of the series is impossible" in caplog.text
    assert {path.name for path in tmp_path.rglob("*")} <= {"out", "journal.sqlite", ".differseg_salt"}


def test_an_endless_list_of_studies_ends(server: HostilePacs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("differseg_med.pacs.studies.MAX_STUDIES", 40)
    server.answers = {
        "studies": lambda path: described(
            [{"0020000D": tag(f"1.2.{len(server.asked)}.{n}", "UI")} for n in range(1, 11)]
        )
    }
    assert len(list_studies(pacs.connect(server.url), {})) < 60


def test_the_query_says_what_the_rule_says(server: HostilePacs):
    rule = parse_rule(["StudyDate=last 3 days", "ModalitiesInStudy = MR"], date(2026, 3, 1))
    assert rule == {"StudyDate": "20260227-20260301", "ModalitiesInStudy": "MR"}
    (study,) = list_studies(pacs.connect(server.url), rule)
    assert (study.uid, study.instances) == (STUDY, 3)
    assert "StudyDate=20260227-20260301" in server.asked[0]
    assert "ModalitiesInStudy=MR" in server.asked[0]


@pytest.mark.parametrize(
    "rule",
    ["PatientName=Doe*", "StudyDate", "StudyDate=yesterday", "ModalitiesInStudy=mr&x=1", "StudyDescription=a\nb"],
)
def test_rules_that_are_none(rule: str):
    with pytest.raises(CaseError, match="--rule"):
        parse_rule([rule], date(2026, 3, 1))


def test_what_is_wrong_with_the_command_is_said_before_a_study_is_asked_for(serve: Command, tmp_path: Path, caplog):
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    for options, words in (
        (["--formats", "seg.nrrd"], "a PACS takes no 'seg.nrrd'"),
        (["--need", "t2"], "the bundle has no modality 't2'"),
        (["--rule", "PatientID=7"], "--rule PatientID is not understood"),
        (["--series-rules", str(tmp_path / "none.yaml")], "no such rule file"),
    ):
        caplog.clear()
        assert serve(url, *options) == 1
        assert words in caplog.text
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "journal.sqlite").write_bytes(b"no journal" * 100)
    assert serve(url) == 1
    assert "this is no journal of serve" in caplog.text


def test_a_server_that_is_away_is_asked_less_and_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(connection, "WAIT_MS", 1)
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 9:
            raise KeyboardInterrupt

    given = service.Service(BUNDLE, tmp_path / "out")
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    with pytest.raises(KeyboardInterrupt):
        service.serve(given, lambda: pacs.connect(url), every_s=60, pause=pause)
    assert waited == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert "does not answer" in caplog.text
