"""A server that speaks vLLM's HTTP over a real LLM of transformers: the tokens follow from the embeddings it is sent.

It stands in where vLLM is not installed. What it takes and gives was recorded from vLLM 0.32.
"""

from __future__ import annotations

import base64
import io
import json
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import torch
from speechllm_tools.vllm.inside.speechllm_rules import process
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.waiting import LONGEST

Failure = int | Literal["drop", "short"]
"""A status; or the connection ends in the answer, or the text ends before its end."""


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StandIn:
    def __init__(self, llm: Path, *names: str, root: str | None = None, positions: int = 4096) -> None:
        """
        :param llm: its checkpoint.
        :param names: of the model.
        :param root: what it says that it was started with; None = `llm`.
        """
        self.model: Any = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
        self.names, self.root, self.positions = names, root or str(llm), positions
        self.told_positions = positions
        """More than it has, it refuses requests that its clients take for possible."""
        self.key: str | None = None
        self.takes_embeddings = True
        self.scale = 1.0
        """Of its embeddings, relative to those that transformers' LLM takes."""
        self.requests: list[dict[str, Any]] = []
        """The bodies that came for texts."""
        self.left = 0
        """Requests whose clients closed the connection."""
        self.writes = threading.Event()
        """Tokens are written while it is set."""
        self.writes.set()
        self.failures: deque[Failure | None] = deque()
        """Of the next requests for texts; None is answered."""
        self._lock = threading.Lock()

    def models(self) -> dict[str, Any]:
        entry = {"object": "model", "root": self.root, "max_model_len": self.told_positions}
        return {"object": "list", "data": [{"id": name, **entry} for name in self.names]}

    def complete(self, body: dict[str, Any], connection: socket.socket) -> dict[str, Any] | None:
        """None for a client that has left."""
        if body["model"] not in self.names:
            raise _Refused(404, f"The model `{body['model']}` does not exist.")
        prompt = self._prompt(body)
        limit = body.get("max_tokens", 16)
        if self.needs(body) > self.positions:
            raise _Refused(400, f"max_tokens={limit} cannot be greater than max_model_len")
        xargs, wanted = body.get("vllm_xargs", {}), set(body.get("stop_token_ids", []))
        if not body.get("ignore_eos"):
            wanted.add(self.model.generation_config.eos_token_id)
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        text: list[int] = []
        known: list[float] = []
        inputs: dict[str, Tensor] = {"inputs_embeds": prompt}
        cache = None
        while len(text) < limit and not (text and text[-1] in wanted):
            assert self.writes.wait(LONGEST)
            if select.select([connection], [], [], 0)[0] and not connection.recv(1, socket.MSG_PEEK):
                self.left += 1
                return None
            with self._lock, torch.inference_mode():
                output = self.model(**inputs, past_key_values=cache, use_cache=True)
                logits, cache = output.logits[0, -1].float(), output.past_key_values
                raw = logits.log_softmax(-1)
                size, penalty = xargs.get("no_repeat_ngram_size", 0), xargs.get("text_repetition_penalty", 1)
                logits = process(size, penalty, text, logits.clone())
                if body["temperature"] == 0:
                    token = int(logits.argmax())
                else:
                    shares = (logits / body["temperature"]).softmax(-1)
                    token = int(torch.multinomial(shares, 1, generator=generator))
            text.append(token)
            known.append(float(raw[token]))
            inputs = {"input_ids": torch.tensor([[token]])}
        return {"choices": [{
            "index": 0, "token_ids": text, "finish_reason": "stop" if text[-1] in wanted else "length",
            "logprobs": {"token_logprobs": known} if body.get("logprobs") is not None else None,
        }]}  # fmt: skip

    def needs(self, body: dict[str, Any]) -> int:
        """Positions of a request for a text."""
        return self._prompt(body).size(1) + int(body.get("max_tokens", 16))

    def _prompt(self, body: dict[str, Any]) -> Tensor:
        """`[1, N, C]`."""
        if "prompt_embeds" not in body:
            embedded: Tensor = self.model.get_input_embeddings()(torch.tensor([body["prompt"]])).detach()
            return embedded
        if not self.takes_embeddings:
            raise _Refused(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        assert "prompt" not in body, "vLLM refuses the empty prompt"
        file = io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True))
        rows: Tensor = torch.load(file, weights_only=True)
        assert rows.untyped_storage().nbytes() == rows.numel() * rows.element_size(), "more was sent than the rows"
        if rows.dim() != 2 or rows.size(1) != (width := self.model.config.hidden_size):
            raise _Refused(400, f"`prompt_embeds` {list(rows.shape)} does not match the model's hidden_size {width}.")
        return rows.float().unsqueeze(0) / self.scale


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """:returns: its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            self._respond(stand_in.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stand_in.requests.append(body)
            failure = stand_in.failures.popleft() if stand_in.failures else None
            if failure == "drop":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{")
                return
            if isinstance(failure, int):
                self._send(failure, {"error": {"message": "the engine\nis dead"}})
                return
            if failure == "short":
                body["max_tokens"] -= 1
            self._respond(lambda: stand_in.complete(body, self.connection))

        def _respond(self, answer: Any) -> None:
            if stand_in.key is not None and self.headers["Authorization"] != f"Bearer {stand_in.key}":
                self._send(401, {"error": "Unauthorized"})
                return
            try:
                values = answer()
            except _Refused as error:
                self._send(error.status, {"error": {"message": str(error)}})
                return
            if values is not None:
                self._send(200, values)

        def _send(self, status: int, values: object) -> None:
            text = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
