"""Bounds on what a server may send: bytes, time, and where to; every answer comes through this adapter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any
from urllib.parse import urljoin, urlsplit

MAX_JSON = 32 * 2**20
"""Bytes of an answer in JSON: the description of some 20 000 instances."""

MAX_INSTANCE = 2**31
"""Bytes of an instance; more does not fit into pydicom's elements either."""

SLOWEST = 10_000
"""Bytes in a second that an answer must have on average, after the time that one waits for it to begin."""

LONGEST_UPLOAD = 600
"""Seconds for a file that is sent in pieces."""

_CHUNK = 2**16


class RefusedAnswerError(Exception):
    """An answer that is not taken, in words."""


class BoundedAdapter:
    """Sends requests, and takes answers of a bounded size in a bounded time from the host that was asked.

    Args:
        seconds: to wait for an answer to begin, and for each further part of it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._inner = import_module("requests.adapters").HTTPAdapter()  # comes with dicomweb-client

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()

    def send(self, request: Any, **kwargs: Any) -> Any:
        """As `HTTPAdapter.send`.

        Raises:
            RefusedAnswerError: for an answer that is late, slow, too large, or leads to another host.
        """
        size = int(request.headers.get("Content-Length") or 0)
        upload = LONGEST_UPLOAD if "Transfer-Encoding" in request.headers else size / SLOWEST
        response = _within(self.seconds + upload, lambda: self._inner.send(request, **{**kwargs, "stream": True}))
        started = time.monotonic()
        _check_redirect(request, response)
        wants_json = "json" in str(request.headers.get("Accept", "")) or request.method == "POST"
        limit = MAX_JSON if wants_json else MAX_INSTANCE
        response.raw = _Bounded(response.raw, limit, started + self.seconds)
        return response


class _Bounded:
    """The body of an answer, read as it arrives, so that neither an endless nor a dripping one holds anybody up."""

    def __init__(self, raw: Any, limit: int, due: float) -> None:
        self._raw, self._limit, self._due = raw, limit, due

    def stream(self, amount: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """The bytes in the pieces that arrive."""
        got = 0
        while piece := self._raw.read1(min(amount or _CHUNK, _CHUNK), decode_content=decode_content):
            got += len(piece)
            if got > self._limit:
                raise RefusedAnswerError(f"its answer is longer than {self._limit / 2**20:.0f} MB")
            if time.monotonic() > self._due + got / SLOWEST:
                raise RefusedAnswerError("its answer comes too slowly")
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _check_redirect(request: Any, response: Any) -> None:
    """Refuse to be sent elsewhere: with a password, or with a patient's images."""
    if not response.is_redirect:
        return
    there = urlsplit(urljoin(str(request.url), response.headers["location"]))
    here = urlsplit(str(request.url))
    if request.method != "GET" or (there.scheme, there.hostname, there.port) != (here.scheme, here.hostname, here.port):
        response.close()
        raise RefusedAnswerError("it sends the request on to another place")


def _within(seconds: float, job: Callable[[], Any]) -> Any:
    """What a job returns or raises, or an error once the time is over: headers may come byte by byte, for ever."""
    done: list[Any] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            done.append(job())
        except Exception as error:  # raised below, in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(2 * seconds)  # requests itself waits that long for the connection, then for the first bytes
    if failed:
        raise failed[0]
    if not done:
        raise RefusedAnswerError("its answer does not begin in time")
    return done[0]
