"""The page at `/`, without a browser: what is served, and that it asks nothing of other machines."""

from __future__ import annotations

import re
import urllib.request
from email.message import Message

import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("fastapi")

from tests.tools.serve.serving import Server

TYPES = {"": "text/html", "css": "text/css", "js": "text/javascript"}


def fetched(server: Server, path: str, method: str = "GET") -> tuple[Message, str]:
    # Without a key: it guards the system, and the page asks for it.
    request = urllib.request.Request(f"{server.url}/{path}", method=method)
    with urllib.request.urlopen(request) as response:
        return response.headers, response.read().decode()


def test_the_page_has_all_it_needs_and_nothing_of_others(server: Server) -> None:
    wanted, seen = [""], {}
    while wanted:
        path = wanted.pop()
        headers, text = fetched(server, path)
        seen[path] = text
        assert headers["Content-Type"] == f"{TYPES[path.rpartition('.')[2]]}; charset=utf-8"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
        found = re.findall(r'(?:src|href)="(page/[^"]+)"', text) + [
            f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', text)
        ]
        wanted += [name for name in found if name not in seen]
    assert {"", "page/page.css", "page/main.js", "page/api.js"} <= seen.keys()
    for path, text in seen.items():
        assert not re.search(r"\w+://|[\"'`(]//|url\(", text), path
        assert not re.search(r"\son\w+=|\sstyle=|<script(?! type=\"module\" src=\"page/)", text), path


def test_the_page_answers_head(server: Server) -> None:
    headers, text = fetched(server, "", "HEAD")
    assert text == "" and int(headers["Content-Length"]) > 1000
