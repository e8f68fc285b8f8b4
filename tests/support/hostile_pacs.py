"""A small DICOMweb server on this machine that answers as a test wants it to; a helper, not a test."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pydicom
from pydicom.dataset import FileDataset

from support.making import blank, set_pixels, uid

STUDY, SERIES = uid("study"), uid("series", "pacs")
BOUNDARY = "b0undary"


def instance(number: int = 0, **changes: str) -> FileDataset:
    """A small CT image of the study, with other tags."""
    dataset = blank("1.2.840.10008.5.1.4.1.1.2", f"pacs {number}", "CT")
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = SERIES, "3", str(number)
    set_pixels(dataset, np.full((4, 5), number, dtype=np.int16))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def encoded(dataset: FileDataset) -> bytes:
    """A data set as a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def multipart(*parts: bytes) -> Answer:
    """Parts of an answer to WADO-RS."""
    body = b"".join(b"\r\n--%b\r\nContent-Type: application/dicom\r\n\r\n%b" % (BOUNDARY.encode(), p) for p in parts)
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    return Answer(body=body + b"\r\n--%b--\r\n" % BOUNDARY.encode(), headers={"Content-Type": kind})


def described(content: object) -> Answer:
    """An answer in JSON."""
    return Answer(body=json.dumps(content).encode())


def tag(value: object, vr: str) -> dict[str, object]:
    """An element in DICOM JSON."""
    return {"vr": vr, "Value": [value]}


def series_entry(**changes: object) -> dict[str, object]:
    """What QIDO-RS says of the series; ``changes`` by keyword."""
    values = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "Modality": "CT", "SeriesNumber": 3}
    values |= {"NumberOfSeriesRelatedInstances": 3, **changes}
    kinds = {"Modality": "CS", "SeriesNumber": "IS", "NumberOfSeriesRelatedInstances": "IS"}
    return {
        f"{pydicom.datadict.tag_for_keyword(name):08X}": tag(value, kinds.get(name, "UI"))
        for name, value in values.items()
        if value is not None
    }


@dataclass
class Answer:
    """What the server sends: ``drip`` seconds between pieces of the body, ``endless`` repeats it for ever."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/dicom+json"})
    body: bytes = b"[]"
    drip: float = 0
    endless: bool = False
    length: int | None = None
    raw: bytes = b""


@dataclass
class HostilePacs:
    """The server: three images of one series, and answers that replace its own by kind of request.

    Args:
        url: of the service.
        answers: by kind (``studies``, ``series``, ``instances``, ``instance``, ``store``): an
            answer, or a function of the path.
        asked: paths of all requests.
    """

    url: str = ""
    answers: dict[str, Answer | Callable[[str], Answer | None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    images: dict[str, FileDataset] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str) -> Answer:
        """What is sent for a request."""
        self.asked.append(path)
        kind = "store" if method == "POST" else "series" if re.search(r"/series\?|/series$", path) else "instances"
        kind = "instance" if "/instances/" in path else kind
        kind = "studies" if method == "GET" and re.search(r"/studies(\?|$)", path) else kind
        given = self.answers.get(kind)
        found = given(path) if callable(given) else given
        return found or self.good(kind, path)

    def good(self, kind: str, path: str) -> Answer:
        """What an honest server says."""
        if kind == "studies":
            return described([{"0020000D": tag(STUDY, "UI"), "00201208": tag(3, "IS")}])
        if kind == "series":
            return described([series_entry()])
        if kind == "instances":
            offset = int((re.search(r"offset=(\d+)", path) or [0, 0])[1])
            return described([{"00080018": tag(name, "UI")} for name in list(self.images)[offset:]])
        if kind == "instance":
            return multipart(encoded(self.images[path.split("/instances/")[1].split("?")[0]]))
        return Answer(body=b"{}")


class Handler(BaseHTTPRequestHandler):
    """Sends what a `HostilePacs` answers."""

    pacs: HostilePacs

    def do_GET(self) -> None:
        self.reply(self.pacs.answer("GET", self.path))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(self.pacs.answer("POST", self.path))

    def reply(self, answer: Answer) -> None:
        self.close_connection = True
        with suppress(OSError):
            if answer.raw:
                return self.send(answer.raw, answer)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not answer.endless:
                self.send_header("Content-Length", str(answer.length or len(answer.body)))
            self.end_headers()
            self.send(answer.body, answer)
        return None

    def send(self, body: bytes, answer: Answer) -> None:
        pieces = [body[n : n + 1] for n in range(len(body))] if answer.drip else [body]
        while not self.pacs.stop.is_set():
            for piece in pieces:
                self.wfile.write(piece)
                if answer.drip and self.pacs.stop.wait(answer.drip):
                    return
            if not answer.endless:
                return

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[HostilePacs]:
    """Serve on a free port of this machine until the block ends."""
    pacs = HostilePacs(images={image.SOPInstanceUID: image for image in map(instance, range(3))})

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"pacs": pacs}))
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    pacs.url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    try:
        yield pacs
    finally:
        pacs.stop.set()
        server.shutdown()
        server.server_close()
