"""The real server in a process of its own."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import openai

from tests.commands import environment
from tests.waiting import LONGEST, wait_until

KEY = "a key that is not guessed"


class Server:
    def __init__(self, run: Path, *options: str, variable: str = KEY) -> None:
        """
        :param variable: the key of clients in the environment.
        """
        command = [sys.executable, "-m", "speechllm_tools.cli", "serve", "--checkpoint", str(run), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=environment(SPEECHLLM_API_KEY=variable),
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_until(lambda: self._ports() or self.process.poll() is not None, "the server tells its address")
            assert self.process.poll() is None, "".join(self.log)
        except BaseException:
            self.process.kill()
            raise
        self.port = int(self._ports()[0])
        self.url = f"http://127.0.0.1:{self.port}"

    def _ports(self) -> list[str]:
        return [match[1] for line in self.log if (match := re.search(r"http://127\.0\.0\.1:(\d+)", line))]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(iter(self.process.stderr.readline, ""))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=LONGEST)

    def curl(self, *arguments: str | Path, path: str = "/v1/audio/transcriptions") -> tuple[int, str]:
        """Status and body."""
        result = subprocess.run(
            [
                "curl",
                "-sS",
                "-H",
                f"Authorization: Bearer {KEY}",
                "-w",
                "\n%{http_code}",
                self.url + path,
                *map(str, arguments),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=LONGEST,
        )
        body, _, status = result.stdout.rpartition("\n")
        return int(status), body

    def metric(self, name: str) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        finally:
            self.process.kill()
        self._reader.join(60)
        assert not self._reader.is_alive(), "a process that the server began holds its log open"
        return status
