"""Rows that a vLLM server decodes: each is a request of its own, and vLLM batches them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import count, islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.errors import ClipError, ServiceError, UserError
from speechllm_plugin.llms.batch import Batch
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.generation import row_seed
from speechllm_plugin.llms.joining import PromptRow
from speechllm_plugin.llms.vllm.server import Call, ServedModel, VllmServer
from speechllm_plugin.llms.vllm.settings import check_settings, fields_of

_WAIT = 0.02
"""Seconds that a step waits for a text: whoever steps may have others to add or to drop."""


class ServedBatch(Batch):
    """Rows begin when they are added. Their prompts are whole, without a prefix of tokens."""

    joins = True

    def __init__(self, server: VllmServer, model: ServedModel, stops: list[int]) -> None:
        """:param stops: the tokens that end a text."""
        self._server, self._model, self._stops = server, model, stops
        self._numbers = count()
        self._calls: dict[int, Call] = {}
        """Of the rows that have no text as yet."""
        self._ended: SimpleQueue[tuple[int, Generated | Exception]] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._calls)

    def add(
        self, rows: Sequence[PromptRow], *, keys: Sequence[str], limits: Sequence[int], config: DecodingConfig
    ) -> list[int]:
        """
        :raises ClipError: a prompt and its text have no room in the server's LLM.
        :raises UserError: vLLM lacks a setting.
        """
        check_settings(config, has_rules=self._model.has_rules)
        for row, key, limit in zip(rows, keys, limits, strict=True):
            self._check_room(key, len(row.embeddings), limit)
        calls = [
            self._server.complete({
                "model": self._model.name,
                "prompt_embeds": encoded(row.embeddings),
                **fields_of(config, limit, self._stops, row_seed(key, config.seed)),
            })
            for row, key, limit in zip(rows, keys, limits, strict=True)
        ]  # fmt: skip
        numbers = list(islice(self._numbers, len(calls)))
        self._calls.update(zip(numbers, calls, strict=True))
        try:
            for asked in zip(numbers, calls, keys, limits, strict=True):
                Thread(target=self._wait_for, args=asked, name="vllm", daemon=True).start()
        except RuntimeError:  # no more threads
            for number in numbers:
                self.drop(number)
            raise
        return numbers

    def _check_room(self, key: str, rows: int, limit: int) -> None:
        if rows + limit > self._model.positions:
            raise ClipError(
                f"{key}: found a prompt of {rows} rows and at most {limit} tokens of text, expected at most "
                f"{self._model.positions} together, the --max-model-len of vLLM"
            )

    def _wait_for(self, number: int, call: Call, key: str, limit: int) -> None:
        try:
            self._ended.put((number, self._text(call.answer(), limit)))
        except ClipError as error:
            self._ended.put((number, ClipError(f"{key}: {error}")))
        except UserError as error:  # it asks for a key, which it did not at the start
            self._ended.put((number, ServiceError(str(error))))
        except Exception as error:
            self._ended.put((number, error))

    def _text(self, answer: Any, limit: int) -> Generated:
        """
        :raises ServiceError: the text is not whole.
        """
        choice = answer["choices"][0]
        tokens, reason = choice["token_ids"], choice["finish_reason"]
        end = next((place for place, token in enumerate(tokens) if token in self._stops), len(tokens))
        if end == len(tokens) and (reason, end) != ("length", limit):
            raise ServiceError(f"{self._server}: found a text of {end} tokens that ends by {reason!r}, expected whole")
        known = choice.get("logprobs")
        probability = None if known is None else float(sum(known["token_logprobs"][:end]))
        return Generated(tokens[:end], cut=end >= limit, log_probability=probability)

    def drop(self, number: int) -> None:
        if (call := self._calls.pop(number, None)) is not None:
            call.end()

    def step(self, *, patient: bool = False) -> dict[int, Generated]:
        """The texts that have come: waits a moment for the first, or as long as it takes.

        :raises ClipError: the server refuses a row.
        :raises ServiceError: it does not answer, fails or ends. No row is decoded any more then.
        """
        found: dict[int, Generated] = {}
        try:
            if self._calls:
                self._take(found, None if patient else _WAIT)
            while self._calls:
                self._take(found, 0)
        except Empty:
            pass
        except Exception:
            for number in list(self._calls):
                self.drop(number)
            raise
        return found

    def _take(self, found: dict[int, Generated], seconds: float | None) -> None:
        number, result = self._ended.get(block=seconds != 0, timeout=seconds or None)
        if number not in self._calls:
            return  # it was dropped
        if isinstance(result, Exception):
            raise result
        del self._calls[number]
        found[number] = result


def encoded(rows: Tensor) -> str:
    """`[N, C]` as vLLM reads it."""
    file = io.BytesIO()
    # A copy: of a slice the whole storage would be saved.
    torch.save(rows.detach().cpu().clone(), file)
    return base64.b64encode(file.getvalue()).decode()
