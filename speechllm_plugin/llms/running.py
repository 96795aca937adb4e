"""Rows that an LLM of ours decodes together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from speechllm_plugin.llms.batch import Batch
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.exact import CheckedRow, Rows, check
from speechllm_plugin.llms.generation import Search
from speechllm_plugin.llms.greedy import SHRINK, GreedyLoop, Writing
from speechllm_plugin.llms.joining import PromptRow

PATIENCE = 8
"""Steps that a draft which has ended waits at most for others to be checked with."""


class RunningBatch(Batch):
    """Each row gives the tokens that it gives alone, whatever its neighbours are and whenever they come: see `exact`.
    Beams, and rows that cannot share a batch, are decoded to their ends within a step.
    """

    def __init__(self, rows: Rows, end_of_turn: int, start_token: int | None = None) -> None:
        """
        :param rows: of one LLM, none as yet.
        :param start_token: see `Search`.
        """
        self._rows, self._end_of_turn, self._start_token = rows, end_of_turn, start_token
        self._half = rows.dtype != torch.float32
        self._searches: dict[int, Search] = {}
        """Of each row that has no text as yet, alone."""
        self._alone: list[int] = []
        self._beams: list[int] = []
        self._queue: list[int] = []
        """Rows that have to wait until none is written."""
        self._loop = GreedyLoop(rows.logits, rows.stops, rows.device)
        self._checked: dict[int, CheckedRow] = {}
        self._drafts: dict[int, list[int]] = {}
        """Whole ones, which are to be checked."""
        self._patience = PATIENCE

    def __len__(self) -> int:
        return len(self._searches)

    @property
    def joins(self) -> bool:
        return self._rows.joins or not len(self)

    def add(
        self, rows: Sequence[PromptRow], *, keys: Sequence[str], limits: Sequence[int], config: DecodingConfig
    ) -> list[int]:
        numbers = self._rows.add(rows)
        search = Search(keys, limits, self._end_of_turn, config, self._start_token)
        self._searches.update((number, search.only([place])) for place, number in enumerate(numbers))
        try:
            with self._precision():
                self._begin(numbers, config)
        except Exception:
            for number in numbers:
                self.drop(number)
            raise
        return numbers

    def _begin(self, numbers: Sequence[int], config: DecodingConfig) -> None:
        scaled = [number for number in numbers if self._is_scaled(number)]
        self._alone += scaled
        numbers = [number for number in numbers if number not in scaled]
        # Beams cannot be checked by one pass: hypotheses are compared with each other at every step.
        if self._rows.apart or (self._half and (config.beam_size > 1 or not self._rows.one_pass)):
            self._alone += numbers
        elif config.beam_size > 1:
            self._beams += numbers
        else:
            if self._half:
                self._checked.update((row, CheckedRow(self._rows, row, self._searches[row])) for row in numbers)
            self._write(numbers)

    def _is_scaled(self, number: int) -> bool:
        return self._rows.scales(number, *self._searches[number].limits)

    def drop(self, number: int) -> None:
        for numbers in (self._alone, self._beams, self._queue):
            if number in numbers:
                numbers.remove(number)
        self._loop.drop(number)
        self._drafts.pop(number, None)
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._searches.pop(number, None)
        self._checked.pop(number, None)
        self._rows.forget(number)

    def step(self, *, patient: bool = False) -> dict[int, Generated]:
        with self._precision():
            found = self._step(patient)
        for number in found:
            self._forget(number)
        return found

    def _step(self, patient: bool) -> dict[int, Generated]:
        found: dict[int, Generated] = {}
        if self._alone:
            found[self._alone[0]] = self._decode_alone(self._alone[0])
            del self._alone[0]
        if self._beams:
            config = self._searches[self._beams[0]].config
            alike = [row for row in self._beams if self._searches[row].config == config]
            search = Search.joined([self._searches[row] for row in alike])
            found.update(zip(alike, self._rows.beams(alike, search), strict=True))
            self._beams = [row for row in self._beams if row not in alike]
        found.update(self._write_on(patient))
        return found

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """The LLM computes in the dtype of its weights."""
        with torch.no_grad(), torch.autocast(self._rows.device.type, enabled=False):
            yield

    def _decode_alone(self, row: int) -> Generated:
        search = self._searches[row]
        # `beams` makes the LLM forget the longest text, and no other row is decoded before this one's end.
        if search.config.beam_size > 1 or self._is_scaled(row):
            return self._rows.beams([row], search)[0]
        loop, writing = GreedyLoop(self._rows.logits, self._rows.stops, self._rows.device), Writing(row, search, [])
        loop.add([writing], self._rows.states([row]))
        while len(loop):
            loop.step()
        return Generated(writing.text, writing.cut)

    def _write(self, numbers: Sequence[int]) -> None:
        """Lets rows go on from what they have: at once, or when all others have ended."""
        if not self._rows.joins:
            self._queue += numbers
            # As many tokens are written of each: those that have some go on alone.
            empty = [row for row in self._queue if not self._text_of(row)]
            numbers = [] if len(self._loop) else empty or self._queue[:1]
        if not numbers:
            return
        texts = [self._text_of(row) for row in numbers]
        states = self._rows.draft_states(numbers, texts) if self._half else self._rows.states(numbers)
        rows = zip(numbers, texts, strict=True)
        self._loop.add([Writing(row, self._searches[row], list(text)) for row, text in rows], states)
        self._queue = [row for row in self._queue if row not in numbers]

    def _text_of(self, row: int) -> list[int]:
        return self._checked[row].tokens if self._half else []

    def _write_on(self, patient: bool) -> dict[int, Generated]:
        if not len(self._loop):
            self._write([])
        ended = self._loop.step() if len(self._loop) else []
        if not self._half:
            return {row.number: Generated(row.text, row.cut) for row in ended}
        self._drafts.update((row.number, row.text) for row in ended)
        return self._check() if self._drafts and self._is_time(patient) else {}

    def _is_time(self, patient: bool) -> bool:
        """Whether drafts are checked: a check of several costs little more than one."""
        running = len(self._loop) + len(self._queue)
        if patient:
            return running == 0
        self._patience -= 1
        return self._patience <= 0 or running <= SHRINK * (running + len(self._drafts))

    def _check(self) -> dict[int, Generated]:
        rows = {row: self._checked[row] for row in self._drafts}
        check(self._rows, {rows[row]: draft for row, draft in self._drafts.items()})
        self._drafts, self._patience = {}, PATIENCE
        self._write([row for row, one in rows.items() if one.text is None])
        return {row: one.text for row, one in rows.items() if one.text is not None}
