#!/usr/bin/env bash
# fsspec 2026.9.0 over HTTP: `info` and `exists` take a server that is busy (503) or forbids (403) for one that has no
# such file, FileNotFoundError or False as for 404. `cat_file` of the same URL tells the status. Who skips what is missing
# leaves data out while a server is overloaded; the status is in the error's `__cause__`.
#
# Installs fsspec and aiohttp into a temporary folder, asks a server of its own on this machine, and fails if that
# changes. Seen with Python 3.11 on Linux:
#   404: info FileNotFoundError, exists False, cat_file FileNotFoundError
#   403: info FileNotFoundError, exists False, cat_file ClientResponseError
#   503: info FileNotFoundError, exists False, cat_file ClientResponseError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" fsspec==2026.9.0 aiohttp==3.14.5
PYTHONPATH="$folder" python3 - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(int(self.path[1:]))

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


def name_of_error(call, url):
    try:
        return str(call(url))
    except Exception as error:
        return type(error).__name__


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
http = fsspec.filesystem("http")
found = {}
for status in (404, 403, 503):
    url = f"http://127.0.0.1:{server.server_port}/{status}"
    found[status] = tuple(name_of_error(call, url) for call in (http.info, http.exists, http.cat_file))
    print("{}: info {}, exists {}, cat_file {}".format(status, *found[status]))
server.shutdown()
missing = ("FileNotFoundError", "False")
assert all(told[:2] == missing for told in found.values()), "the behaviour has changed"
assert found[404][2] == "FileNotFoundError" and found[403][2] == found[503][2] == "ClientResponseError", "it has changed"
print("as found: a busy server looks like a missing file")
PYTHON
