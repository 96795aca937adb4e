"""A web server for tests, with ranges, which can fail as real ones do."""

from __future__ import annotations

import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from tests.waiting import LONGEST

Failure = int | Literal["drop", "short", "silence"]
"""A status; or the connection ends before the answer, or in it; or nothing comes."""


class Site:
    """A folder, by HTTP. `sent` are the ranges that were asked for, by path."""

    def __init__(self, folder: Path) -> None:
        self.sent: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.failures: deque[Failure] = deque()
        """Of the next requests."""
        self.fails_each: int | None = None
        """Each so many-th request is answered with 503."""
        self.requests = 0
        self.breaks_after = 1 << 40
        """Bytes of a file behind which nothing more is sent."""
        self.keeps_connections = False
        """Whether a connection is kept for the next request, as most servers do."""
        self.ended = threading.Event()
        site, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def parse_request(self) -> bool:
                self.protocol_version = "HTTP/1.1" if site.keeps_connections else "HTTP/1.0"
                return super().parse_request()

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                with lock:
                    site.requests += 1
                    failure = site.failures.popleft() if site.failures else None
                    if site.fails_each is not None and site.requests % site.fails_each == 0:
                        failure = 503
                if failure == "silence":
                    site.ended.wait(LONGEST)
                if failure in ("silence", "drop"):
                    self.close_connection = True
                    return
                if isinstance(failure, int):
                    self.send_error(failure)
                    return
                path = folder / self.path.lstrip("/")
                if not path.is_file():
                    self.send_error(404)
                    return
                data = path.read_bytes()
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                start, stop = (int(match[1]), min(int(match[2]) + 1, len(data))) if match else (0, len(data))
                if body and stop > site.breaks_after:
                    self.send_error(500)
                    return
                if body:
                    site.sent[self.path.lstrip("/")].append((start, stop))
                self.send_response(206 if match else 200)
                self.send_header("Content-Length", str(stop - start))
                self.send_header("Accept-Ranges", "bytes")
                if match:
                    self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
                self.end_headers()
                if body:
                    self.wfile.write(data[start : (start + stop) // 2 if failure == "short" else stop])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    thread = threading.Thread(target=site.server.serve_forever)
    thread.start()
    try:
        yield site
    finally:
        site.ended.set()
        site.server.shutdown()
        thread.join(LONGEST)
        assert not thread.is_alive(), "the server does not end"
        site.server.server_close()
