"""A DICOMweb server that lies, stalls, floods and sends elsewhere: one line each, nothing outside, no wrong patient."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from support.hostile import HOSTILE
from support.hostile_pacs import (
    SERIES,
    STUDY,
    Answer,
    HostilePacs,
    described,
    encoded,
    instance,
    multipart,
    series_entry,
    serving,
    tag,
)
from support.making import uid
from typer.testing import CliRunner

from differseg_med import pacs
from differseg_med.cli import app
from differseg_med.errors import CaseError, printable
from differseg_med.pacs import bounds, connection

OTHER = uid("another")
JSON = {"Content-Type": "application/dicom+json"}
HTML = {"Content-Type": "text/html"}
SECONDS = 0.4


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WAIT_MS", 1)
    monkeypatch.setattr(bounds, "MAX_JSON", 200_000)
    monkeypatch.setattr(bounds, "MAX_INSTANCE", 300_000)
    for name in (pacs.USER, pacs.PASSWORD):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[HostilePacs]:
    with serving() as found:
        yield found


def client_of(server: HostilePacs) -> connection.Client:
    return pacs.connect(server.url, timeout=SECONDS)


def entries(**changes: object) -> Answer:
    return described([series_entry(**changes)])


BROKEN = {  # answers that are wrong whatever was asked
    "busy": Answer(status=429),
    "unavailable": Answer(status=503, headers={**JSON, "Retry-After": "86400"}),
    "time-out": Answer(status=504),
    "unauthorized": Answer(status=401),
    "forbidden": Answer(status=403),
    "unknown": Answer(status=404, body=b"\x1b[2JDoe^Jane", headers=HTML),
    "conflict": Answer(status=409),
    "teapot": Answer(status=418),
    "error": Answer(status=500, body=b"Traceback: Doe^Jane"),
    "html": Answer(headers=HTML, body=b"<html>log in</html>"),
    "no kind": Answer(headers={}, body=b"x"),
    "cut short": Answer(body=b'[{"0020000D":', length=100_000),
    "endless": Answer(body=b" " * 50_000, endless=True),
    "bomb": Answer(headers={**JSON, "Content-Encoding": "gzip"}, body=gzip.compress(bytes(3_000_000))),
    "no gzip": Answer(headers={**JSON, "Content-Encoding": "gzip"}, body=b"no gzip"),
    "dripping": Answer(body=b" " * 10_000, drip=0.02),
    "dripping head": Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 500, drip=0.02),
    "long head": Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"),
    "junk": Answer(raw=b"\x00\x01\x02" * 100),
    "silence": Answer(raw=b" ", drip=60),
    "elsewhere": Answer(status=302, headers={"Location": "http://127.0.0.2:1/x"}),
    "other port": Answer(status=307, headers={"Location": "http://127.0.0.1:1/x"}),
    "a file": Answer(status=302, headers={"Location": "file:///etc/passwd"}),
    "nowhere": Answer(status=302, headers={"Location": "http://["}),
    "round": Answer(status=302, headers={"Location": "?again"}),
}

SERIES_ANSWERS = {
    "no json": Answer(body=b"[{"),
    "number": Answer(body=b"7"),
    "text": Answer(body=b'"x"'),
    "null": Answer(body=b"null"),
    "list of texts": Answer(body=b'["x"]'),
    "deep": Answer(body=b"[" * 90_000),
    "wrong kinds": Answer(body=b'[{"0020000E": {"vr": "UI", "Value": {"a": 1}}}]'),
    "wrong tag": Answer(body=b'[{"PatientName": {"vr": "PN"}}]'),
    "no uid": entries(SeriesInstanceUID=None),
    "bad uid": entries(SeriesInstanceUID="../../victim"),
    "uid with a line": entries(SeriesInstanceUID="1.2.3\n4"),
    "long uid": entries(SeriesInstanceUID="1." * 40 + "1"),
    "arabic uid": entries(SeriesInstanceUID="1.٢.3"),
    "another study": entries(StudyInstanceUID=OTHER),
    "twice": described([series_entry(), series_entry()]),
    "modality up": entries(Modality="x/../../../victim"),
    "modality root": entries(Modality="/etc"),
    "modality nul": entries(Modality="CT\0"),
    "modality colours": entries(Modality="\x1b[31mCT"),
    "modality long": entries(Modality="C" * 300),
    "number as text": entries(SeriesNumber="x"),
    "negative number": entries(SeriesNumber=-3),
    "huge number": entries(SeriesNumber=10**30),
    "huge count": entries(NumberOfSeriesRelatedInstances=10**12),
    "nothing": described([]),
    "file of dicom": multipart(encoded(instance())),
}


def refused(job: Callable[[], object]) -> str:
    """The one line of a refusal, within bounds of time and length."""
    start = time.monotonic()
    with pytest.raises(CaseError) as caught:
        job()
    assert time.monotonic() - start < 30
    text = str(caught.value)
    assert printable(text) == text
    assert len(text) < 400
    assert "Doe" not in text
    return text


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_of_any_request(name, server, tmp_path):
    client = client_of(server)
    for kind, job in (
        ("series", lambda: pacs.list_series(client, STUDY)),
        ("instances", lambda: pacs.pull(client, STUDY, tmp_path / "out")),
        ("instance", lambda: pacs.pull(client, STUDY, tmp_path / "out")),
    ):
        server.answers = {kind: BROKEN[name]}
        server.asked.clear()
        refused(job)
        assert len(server.asked) <= 16
        assert not list(tmp_path.glob("out/[!.]*"))
    server.answers = {}
    assert len(pacs.pull(client, STUDY, tmp_path / "out")) == 1  # and afterwards all is well


@pytest.mark.parametrize("name", SERIES_ANSWERS)
def test_series_that_cannot_be(name, server, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept").write_text("x")
    server.answers = {"series": SERIES_ANSWERS[name]}
    refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path / "a" / "b" / "out"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "victim"]


@pytest.mark.parametrize("text", HOSTILE[:24], ids=ascii)
def test_no_modality_becomes_a_path(text, server, tmp_path):
    server.answers = {"series": entries(Modality=text.encode(errors="replace").decode())}
    try:
        folders = pacs.pull(client_of(server), STUDY, tmp_path / "out")
    except CaseError:
        folders = []
    assert all(folder.parent == tmp_path / "out" for folder in folders)
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}


IMAGES = {
    "another series": (multipart(encoded(instance(0, SeriesInstanceUID=OTHER))), "another series"),
    "another study": (multipart(encoded(instance(0, StudyInstanceUID=OTHER))), "another study"),
    "another instance": (multipart(encoded(instance(7))), "another instance"),
    "two at once": (multipart(encoded(instance(0)), encoded(instance(1))), "not DICOMweb"),
    "none": (multipart(), "not DICOMweb"),
    "no dicom": (multipart(b"x" * 500), "not DICOMweb"),
    "cut": (multipart(encoded(instance(0))[:300]), ""),
    "no boundary": (Answer(headers={"Content-Type": "multipart/related"}, body=b"x" * 200), "not DICOMweb"),
    "one file": (Answer(headers={"Content-Type": "application/dicom"}, body=b"x" * 200), "not DICOMweb"),
    "endless part": (Answer(headers=multipart().headers, body=b"x" * 60_000, endless=True), "longer than"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_were_not_asked_for(name, server, tmp_path):
    server.answers = {"instance": IMAGES[name][0]}
    assert IMAGES[name][1] in refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path))
    assert not list(tmp_path.glob("[!.]*"))


LISTS = {
    "three times the same": [*[instance(0).SOPInstanceUID] * 3],
    "bad uid": ["../../x"],
    "fewer": [instance(0).SOPInstanceUID],
    "more": [uid("surplus", n) for n in range(9)],
    "none": [],
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_instances_that_cannot_be(name, server, tmp_path):
    server.answers = {"instances": described([{"00080018": tag(text, "UI")} for text in LISTS[name]])}
    refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path))
    assert not list(tmp_path.glob("[!.]*"))


def test_an_endless_list_of_instances_ends(server, tmp_path, monkeypatch):
    monkeypatch.setattr("differseg_med.pacs.series.MAX_INSTANCES", 40)
    server.answers = {
        "instances": lambda path: described([{"00080018": tag(uid(path, n), "UI")} for n in range(10)]),
        "series": entries(NumberOfSeriesRelatedInstances=None),
    }
    server.answers["instance"] = Answer(status=404)
    refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path))
    assert len(server.asked) < 12


def test_two_patients_in_one_series(server, tmp_path):
    last = list(server.images)[-1]
    server.images[last].PatientID = "ID-4712"
    text = refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path))
    assert "two patients" in text
    assert "471" not in text
    assert not list(tmp_path.glob("[!.]*"))


def test_a_pull_goes_on_where_the_network_failed(server, tmp_path):
    last = sorted(server.images)[-1]
    server.answers = {"instance": lambda path: Answer(status=500) if last in path else None}
    refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path))
    kept = sorted(path.name for path in (tmp_path / ".003_CT.part").iterdir())
    assert kept == [f"{name}.dcm" for name in sorted(server.images)[:-1]]
    (tmp_path / ".003_CT.part" / kept[0]).write_bytes(encoded(instance(0, SeriesInstanceUID=OTHER)))  # not believed
    (tmp_path / ".003_CT.part" / "stranger").write_bytes(b"x")
    server.answers, server.asked = {}, []
    (folder,) = pacs.pull(client_of(server), STUDY, tmp_path)
    assert sum("/instances/" in path for path in server.asked) == 2
    found = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    assert {image.SOPInstanceUID for image in found} == set(server.images)
    assert {image.SeriesInstanceUID for image in found} == {SERIES}
    assert [path.name for path in tmp_path.iterdir()] == ["003_CT"]


def test_links_in_the_output_lead_nowhere(server, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "003_CT").symlink_to(tmp_path / "victim")
    assert "file or link" in refused(lambda: pacs.pull(client_of(server), STUDY, tmp_path / "out"))
    assert (tmp_path / "victim" / "kept").exists()


def stored(folder: Path, **changes: str) -> Path:
    path = folder / "mask.dcm"
    path.write_bytes(encoded(instance(0, **changes)))
    return path


CHANGED = {
    "patient": {"PatientID": "ID-4712"},
    "name": {"PatientName": "Doe^John"},
    "series": {"SeriesInstanceUID": OTHER},
    "study": {"StudyInstanceUID": OTHER},
    "instance": {"SOPInstanceUID": OTHER},
    "frame": {"FrameOfReferenceUID": OTHER},
    "pixels": {},
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_comes_back_changed_after_a_push(name, server, tmp_path):
    back = instance(0, **CHANGED[name])
    if name == "pixels":
        back.PixelData = b"\1" * len(back.PixelData)
    server.answers = {"instance": multipart(encoded(back))}
    assert "gives" in refused(lambda: pacs.push(client_of(server), [stored(tmp_path)]))


@pytest.mark.parametrize("name", ["busy", "endless", "elsewhere", "dripping", "junk", "round", "conflict"])
def test_broken_answers_to_a_push(name, server, tmp_path):
    server.answers = {"store": BROKEN[name]}
    refused(lambda: pacs.push(client_of(server), [stored(tmp_path)]))
    assert not [path for path in server.asked if "/instances/" in path]


def test_a_push_that_is_honest_and_one_that_fails(server, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pacs.push(client_of(server), [stored(tmp_path)])
    assert "stored and checked: mask.dcm" in caplog.text
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": tag(0xA700, "US")}]}}
    server.answers = {"store": described(failed)}
    assert "failure reason 0xa700" in refused(lambda: pacs.push(client_of(server), [stored(tmp_path)]))
    assert "UID" in refused(lambda: pacs.push(client_of(server), [stored(tmp_path, StudyInstanceUID="x/..")]))


def test_the_commands_end_in_one_line(server, tmp_path, caplog):
    server.answers = {"series": SERIES_ANSWERS["modality up"]}
    result = CliRunner().invoke(app, ["pacs", "pull", server.url, STUDY, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "a Modality that is none" in caplog.text


@pytest.mark.parametrize("url", ["http://[", "http://h:port/x", "http://:80/", "", "https://"])
def test_addresses_that_are_none(url):
    with pytest.raises(CaseError, match="not the address"):
        pacs.connect(url)


def test_enough_is_tried():
    assert len(BROKEN) + len(SERIES_ANSWERS) + len(IMAGES) + len(LISTS) + len(CHANGED) >= 60
