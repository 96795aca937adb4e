"""A running server under load: clients at once against one after the other, with broken requests among the good ones.

    speechllm serve --checkpoint demo/run --port 8011 --max-megabytes 1 --max-minutes 2 --max-requests 12
    python benchmarks/serve_load.py --url http://127.0.0.1:8011 --audio demo/data/audio/test_seen/*.flac

Every good request must have the text that it has alone, every broken one its refusal, and nothing may be left behind:
exit status 1 otherwise. Where there are more clients than places, those that are told to come again do so when they are
told to, and are counted. The clients are threads of this process and use Python's own HTTP: they take processor time
from the server where both share a machine.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import math
import os
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import soundfile

BOUNDARY = "a-boundary-that-no-sound-holds"
RATE = 4000
"""Of the recording that is too long: a slow one is small."""
STATUS = {
    "truncated": 400, "no sound": 415, "wrong field": 400, "too large": 413, "too long": 400, "wrong model": 404,
    "wrong key": 401, "cut off": None, "left": None,
}  # fmt: skip
"""The kinds of broken requests, and what each is refused with; those that leave are told nothing."""


@dataclass(frozen=True)
class Server:
    address: str
    model: str
    key: str | None = None
    waits: list[float] = field(default_factory=list)
    """The seconds of each answer that told a client to come again."""

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=600)

    def get(self, path: str) -> str:
        connection = self.connect()
        connection.request("GET", path, headers=self.headers())
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def gauge(self, name: str) -> float:
        return float(re.findall(rf"^{name} (\S+)$", self.get("/metrics"), re.MULTILINE)[0])

    def body(self, sound: bytes, **fields: str) -> bytes:
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in {"model": self.model, **fields}.items()
        ]
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'.encode()
        return b"".join([*parts, head, sound, f"\r\n--{BOUNDARY}--\r\n".encode()])

    def begin(self, body: bytes, share: float = 1.0) -> http.client.HTTPConnection:
        """A request of which a share has been sent."""
        connection = self.connect()
        connection.putrequest("POST", "/v1/audio/transcriptions")
        connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        connection.putheader("Content-Length", str(len(body)))
        for name, value in self.headers().items():
            connection.putheader(name, value)
        # Of what is too large the server wants no more than its length.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(body[: round(share * len(body))])
        return connection

    def transcribe(self, body: bytes) -> tuple[int, str]:
        """Status, and the text or the refusal. Told to come again, it does."""
        while True:
            connection = self.begin(body)
            response = connection.getresponse()
            values = json.loads(response.read())
            connection.close()
            if response.status != 429:
                return response.status, values["text"] if response.status == 200 else values["error"]["message"]
            self.waits.append(int(response.headers["Retry-After"]))
            time.sleep(self.waits[-1])

    def first_words(self, body: bytes) -> Iterator[float]:
        """Seconds to each delta of a stream."""
        start = time.perf_counter()
        connection = self.begin(body)
        for line in connection.getresponse():
            if b"text.delta" in line:
                yield time.perf_counter() - start
        connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--audio", required=True, nargs="+", type=Path, help="clips")
    parser.add_argument("--long", type=Path, help="a recording of several pieces, for the first words of a stream")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000, help="by all clients together; a fifth is broken")
    parser.add_argument("--alone", type=int, default=100, help="requests that are sent one after the other")
    parser.add_argument("--pid", type=int, help="of the server, where it is on this machine, to tell its processor "
                        "time: beside other work it says more than the clock")
    parser.add_argument("--megabytes", type=float, default=1, help="the server's --max-megabytes (default: 1)")
    parser.add_argument("--minutes", type=float, default=2, help="the server's --max-minutes (default: 2)")
    parser.add_argument("--api-key", help="the server's, if it asks for one: some requests then have another")
    options = parser.parse_args()
    address = urlsplit(options.url).netloc
    nameless = Server(address, "", options.api_key)
    server = replace(nameless, model=json.loads(nameless.get("/v1/models"))["data"][0]["id"])
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(round(60 * options.minutes + 60) * RATE, np.int16), RATE, format="flac")
    clips = [file.read_bytes() for file in options.audio]

    texts = [server.transcribe(server.body(clip))[1] for clip in clips]  # also warms up
    before = processor_seconds(options.pid)
    alone = one_by_one(server, clips, options.alone)
    single = (processor_seconds(options.pid) - before) / len(alone)
    print(f"one after the other: {len(alone)} requests, {len(alone) / sum(alone):.2f} a second, "
          f"median {statistics.median(alone):.3f} s", flush=True)
    bodies: dict[str, Callable[[bytes], bytes]] = {
        "truncated": lambda clip: server.body(clip[: len(clip) // 2]),
        "no sound": lambda clip: server.body(b"a letter, no sound"),
        "wrong field": lambda clip: server.body(clip, temperature="hot"),
        "too large": lambda clip: server.body(bytes(round(options.megabytes * 1e6) + 200_000)),
        "too long": lambda clip: server.body(silence.getvalue()),
        "wrong model": lambda clip: server.body(clip, model="another"),
    }
    jobs = plan(len(clips), options.requests, [kind for kind in STATUS if kind != "wrong key" or options.api_key])
    start, before = time.perf_counter(), processor_seconds(options.pid)
    with ThreadPoolExecutor(options.clients) as pool:
        outcomes = Counter(pool.map(lambda job: outcome(server, clips, texts, job, bodies), jobs))
    seconds = time.perf_counter() - start
    good = sum(kind == "good" for kind, _ in jobs)
    print(f"{options.clients} clients: {len(jobs)} requests, {good} of them good, {seconds:.1f} s, "
          f"{good / seconds:.2f} good ones a second: {good / seconds * sum(alone) / len(alone):.2f} times as many",
          flush=True)
    if options.pid is not None:
        shared = (processor_seconds(options.pid) - before) / good
        print(f"processor time of the server: {single:.3f} s a request alone, {shared:.3f} s a good one of many: "
              f"{single / shared:.2f} times as many", flush=True)
    for (kind, found), count in sorted(outcomes.items()):
        print(f"    {kind}: {found}: {count}")
    print(f"told to come again (429): {len(server.waits)} times")
    left_behind = settle(server)
    print(f"left behind: {left_behind:g} requests")
    if options.long is not None:
        tell_first_words(server, options.long.read_bytes(), clips, texts)
    wrong = sum(count for (_, found), count in outcomes.items() if found not in ("as expected", "no answer expected"))
    return 1 if wrong or left_behind else 0


def one_by_one(server: Server, clips: Sequence[bytes], count: int) -> list[float]:
    """Seconds of each request."""
    seconds = []
    for number in range(count):
        start = time.perf_counter()
        server.transcribe(server.body(clips[number % len(clips)]))
        seconds.append(time.perf_counter() - start)
    return seconds


def processor_seconds(pid: int | None) -> float:
    """Of all threads of a process so far, on Linux."""
    if pid is None:
        return math.nan
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def plan(clips: int, count: int, broken: Sequence[str]) -> list[tuple[str, int]]:
    """The kind of each request, and the number of its clip."""
    kinds = [broken[number // 5 % len(broken)] if number % 5 == 0 else "good" for number in range(count)]
    random.Random(0).shuffle(kinds)
    return [(kind, number % clips) for number, kind in enumerate(kinds)]


def outcome(
    server: Server,
    clips: Sequence[bytes],
    texts: Sequence[str],
    job: tuple[str, int],
    bodies: Mapping[str, Callable[[bytes], bytes]],
) -> tuple[str, str]:
    """
    :param bodies: of broken requests, by their kinds; others have the body of a good one.
    :returns: the kind of the request, and what came of it.
    """
    kind, number = job
    clip = clips[number]
    if kind in ("cut off", "left"):
        connection = server.begin(server.body(clip), 0.5 if kind == "cut off" else 1.0)
        time.sleep(0.05)
        connection.close()
        return kind, "no answer expected"
    client = replace(server, key="another") if kind == "wrong key" else server
    try:
        status, text = client.transcribe(bodies.get(kind, server.body)(clip))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return kind, f"lost ({type(error).__name__})"
    if kind == "good":
        return kind, "as expected" if (status, text) == (200, texts[number]) else f"another text (status {status})"
    return kind, "as expected" if status == STATUS[kind] else f"status {status}: {text}"


def settle(server: Server) -> float:
    """Requests that have a place although nobody waits for them."""
    for _ in range(100):
        if not (found := server.gauge("speechllm_requests_under_way")):
            break
        time.sleep(0.1)
    return found


def tell_first_words(server: Server, recording: bytes, clips: Sequence[bytes], texts: Sequence[str]) -> None:
    """The recording's stream and lone clips by turns: what else the machine does meets both."""
    lone, first, whole = [], [], []
    for number in range(10):
        start = time.perf_counter()
        server.transcribe(server.body(clips[number % len(clips)]))
        lone.append(time.perf_counter() - start)
        deltas = list(server.first_words(server.body(recording, stream="true")))
        first.append(deltas[0])
        whole.append(deltas[-1])
    ratio = statistics.median(first) / statistics.median(lone)
    print(f"a stream's first words: {statistics.median(first):.3f} s, its last {statistics.median(whole):.3f} s; "
          f"a lone clip {statistics.median(lone):.3f} s: {ratio:.2f} times as long")


if __name__ == "__main__":
    raise SystemExit(main())
