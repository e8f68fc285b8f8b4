"""A server on this machine alone that shows the results of one folder, and keeps what is decided on them.

It answers requests that name this machine (a name of another one may have been made to lead here) and begin with the
token of this start; what it reads is chosen by case ids of the results' own tables, never by a path in a request.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from differseg_med.case import Case
from differseg_med.errors import CaseError
from differseg_med.review.page import page, policy, short
from differseg_med.review.results import Facts, case_mask, mask_hash, read_results
from differseg_med.review.slices import case_slices
from differseg_med.review.verdicts import ChangedError, Review, Reviews

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
LONGEST_BODY = 64 * 1024
"""Bytes of a request; a note is shorter."""

FACTS = ("status", "reason", "modalities", "volume_ml", "dice", "hd95_mm", "flags", "notes")


class ReviewServer(ThreadingHTTPServer):
    """The server; `serve_forever` runs it.

    Args:
        folder: results of a run.
        cases: rows of a cohort table by case id, for labels.
        port: 0 takes a free one.

    Raises:
        CaseError: if it is no folder of results, or its ``review.csv`` is none of ours.
        OSError: if the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: str | Path, cases: Mapping[str, Case] | None = None, port: int = 0) -> None:
        self.folder, self.cases = Path(folder), dict(cases or {})
        self.reviews, self.token = Reviews(folder), secrets.token_urlsafe(24)
        self.reading = threading.Lock()  # one case at a time: each takes memory
        read_results(self.folder)
        self.reviews.read()
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def results(self) -> dict[str, Facts]:
        """The cases as their tables have them now: a run may be going on."""
        return read_results(self.folder)

    def shown(self, case: str) -> dict[str, Any]:
        """All that the page needs of a case; ``problem`` instead of slices if there is nothing to look at.

        Raises:
            CaseError: if there is no such case.
        """
        facts = self._known(case)
        review, mask = self.reviews.read().get(case, Review()), mask_hash(case_mask(self.folder, case))
        found = {
            "case": case,
            "facts": {name: short(facts[name]) for name in FACTS if facts.get(name)},
            "review": _as_json(review),
            "outdated": bool(review.verdict) and review.mask != mask,
        }
        with self.reading:
            try:
                return found | case_slices(self.folder, case, self.cases.get(case))
            except CaseError as error:
                return found | {"problem": str(error), "notes": []}

    def decide(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a verdict; the review as it now is.

        Raises:
            ChangedError: if another tab was quicker.
            CaseError: for anything that is no verdict on a case of the results.
        """
        words = [given.get(name, "") for name in ("case", "verdict", "note", "seen")]
        if not all(isinstance(word, str) for word in words):
            raise CaseError("a verdict is made of texts")
        case, verdict, note, seen = words
        self._known(case)
        return _as_json(self.reviews.save(case, verdict, note, mask_hash(case_mask(self.folder, case)), seen))

    def _known(self, case: str) -> Facts:
        facts = self.results().get(case)
        if facts is None:
            raise CaseError("there is no such case in the tables of the results")
        return facts


def _as_json(review: Review) -> dict[str, str]:
    return {"verdict": review.verdict, "note": review.note, "time": review.time}


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ReviewServer
    timeout = 60
    server_version, sys_version = "differseg", ""

    def do_GET(self) -> None:
        """The page, or what is shown of a case."""
        place = self._place()
        if place == "":
            text = page(self.server.results(), self.server.reviews.read(), labels=bool(self.server.cases))
            self._answer(HTTPStatus.OK, text, "text/html", {"Content-Security-Policy": policy(text)})
        elif place == "case":
            case = parse_qs(urlsplit(self.path).query).get("id", [""])[0]
            self._tell(lambda: self.server.shown(case))
        elif place is not None:
            self._answer(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def do_POST(self) -> None:
        """A verdict."""
        place = self._place()
        if place is None:
            return
        size = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if place != "review" or kind != "application/json" or not size.isdecimal() or int(size) > LONGEST_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.BAD_REQUEST, "This is no verdict.")
            return
        try:
            given = json.loads(self.rfile.read(int(size)))
        except ValueError:
            given = None
        if not isinstance(given, dict):
            self._answer(HTTPStatus.BAD_REQUEST, "This is no verdict.")
            return
        self._tell(lambda: self.server.decide(given))

    def _place(self) -> str | None:
        """What is behind the token in the path; None if the request was refused."""
        own = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        foreign = origin is not None and origin.removeprefix("http://") not in own
        if self.headers.get("Host", "").lower() not in own or foreign:
            self._answer(HTTPStatus.FORBIDDEN, "This server answers its own page only.")
            return None
        token, _, place = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self._answer(HTTPStatus.NOT_FOUND, "Open the address that `differseg-med view` printed.")
            return None
        return place

    def _tell(self, job: Any) -> None:
        """Answer with what a job returns, or why it did not."""
        try:
            status, content = HTTPStatus.OK, job()
        except ChangedError as error:
            status, content = HTTPStatus.CONFLICT, {"error": str(error), "review": _as_json(error.current)}
        except CaseError as error:
            status, content = HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
        except OSError as error:
            status, content = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"The disk: {error.strerror}."}
        self._answer(status, json.dumps(content), "application/json")

    def _answer(
        self, status: HTTPStatus, text: str, kind: str = "text/plain", more: Mapping[str, str] | None = None
    ) -> None:
        body = text.encode("utf-8", "backslashreplace")
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",  # the address has the token
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        with suppress(ConnectionError):  # the tab was closed
            self.send_response(status)
            for name, value in {**headers, **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: an address names a case."""
