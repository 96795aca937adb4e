"""Requests that join others between two tokens, over tiny real systems; a gate holds each step until the test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")

from speechllm_tools.serve.engine import Engine
from speechllm_tools.serve.ways import Answer, Asking, Decoder, Question, Transcribing

from speechllm_plugin.errors import ClipError, UserError
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.tasks.row_prompt import question

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

ENGLISH = Transcribing("en", None, timed=False)
CLIPS = [
    Named("file", (0.2 * np.sin(np.arange(size) / (7 + row))).astype(np.float32))
    for row, size in enumerate((9_000, 16_000, 12_000, 20_000))
]


class Gate:
    """Lets batches take as many steps as the test allows."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._is_open = False
        self.sizes: list[int] = []
        """Items at each step."""

    def watch(self, size: int) -> None:
        """Called by the engine before each step."""
        self.sizes.append(size)
        self._arrived.release()
        if not self._is_open:
            self._steps.acquire()

    def step(self, count: int = 1) -> None:
        """Returns when so many steps have been made, and the engine stands before the next."""
        for _ in range(count):
            self._steps.release()
            assert self._arrived.acquire(timeout=60)

    def stand(self) -> None:
        """Returns when the engine stands before its first step."""
        assert self._arrived.acquire(timeout=60)

    def open(self) -> None:
        self._is_open = True
        self._steps.release(1000)


@pytest.fixture(params=["float32", "bfloat16"])
def system(tiny_config: SpeechLlmConfig, request: pytest.FixtureRequest) -> Transcriber:
    return system_of(tiny_config, request.param)


def system_of(config: SpeechLlmConfig, dtype: str, seed: int = 0) -> Transcriber:
    config = deepcopy(config)
    for part in (config.encoder, config.llm):
        assert isinstance(part.config, dict)
        part.config["dtype"] = dtype
    torch.manual_seed(seed)
    return Transcriber(create_speech_llm(config).eval())


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def engine(gate: Gate) -> Iterator[Engine]:
    engine = Engine(4, gate.watch)
    yield engine
    gate.open()
    engine.end()


def asked(row: int, words: str = "Which word? <speech>") -> Question:
    return Question(CLIPS[row], question(words, "", (), ""))


def answered(system: Transcriber, row: int, tokens: int, words: str = "Which word? <speech>") -> str:
    return system.ask(CLIPS[row].samples, words, max_tokens=tokens)[0]


class Ended:
    """The order in which results come."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self, name: str, future: Future[Any]) -> Future[Any]:
        future.add_done_callback(lambda done: self.names.append(name))
        return future


def test_a_short_answer_does_not_wait_for_a_long_one(system: Transcriber, gate: Gate, engine: Engine) -> None:
    begin, ended = partial(Decoder, system, "en"), Ended()
    long = ended.note("long", engine.submit(asked(0), Asking(max_tokens=60), begin))
    gate.stand()
    gate.step(5)
    # Of other ways, which share the batch all the same.
    short = ended.note("short", engine.submit(asked(1), Asking(max_tokens=3), begin))
    text = ended.note("text", engine.submit(CLIPS[2], ENGLISH, begin))
    gate.open()
    found: Answer = long.result(60)
    assert found.tokens > 40
    assert ended.names.index("short") < ended.names.index("long")
    assert max(gate.sizes) == 3 and gate.sizes[0] == 1
    assert (found.text, short.result(60).text) == (answered(system, 0, 60), answered(system, 1, 3))
    assert text.result(60) == system.transcribe(CLIPS[2].samples)[0]


def test_one_that_is_cancelled_leaves_its_place(system: Transcriber, gate: Gate, engine: Engine) -> None:
    begin = partial(Decoder, system, "en")
    jobs = [engine.submit(asked(row), Asking(max_tokens=30), begin) for row in range(4)]
    gate.stand()
    waiting = engine.submit(asked(0, "What? <speech>"), Asking(max_tokens=5), begin)
    gate.step(2)
    assert jobs[1].cancel() and engine.waiting == 1, "one joined a full batch"
    gate.step(2)
    assert engine.waiting == 0 and gate.sizes[-1] == 4, "its place is not given to the next"
    gate.open()
    assert waiting.result(60).text == answered(system, 0, 5, "What? <speech>")
    assert [jobs[row].result(60).text for row in (0, 2, 3)] == [answered(system, row, 30) for row in (0, 2, 3)]


def test_what_is_cancelled_while_the_batch_is_full_waits_no_longer(system: Transcriber, gate: Gate) -> None:
    engine, begin = Engine(1, gate.watch), partial(Decoder, system, "en")
    try:
        running = engine.submit(CLIPS[0], ENGLISH, begin)
        gate.stand()
        waiting = engine.submit(CLIPS[1], ENGLISH, begin)
        assert engine.waiting == 1 and waiting.cancel()
        assert engine.waiting == 0
    finally:
        gate.open()
        assert running.result(timeout=60) is not None
        engine.end()


def test_one_that_leaves_while_others_are_waited_for_stops_nothing(
    tiny_config: SpeechLlmConfig, gate: Gate, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, gather, submitted = system_of(tiny_config, "float32"), Engine._gather, threading.Event()
    begin = partial(Decoder, system, "en")
    leaving: list[Future[Any]] = []

    def gather_and_leave(engine: Engine) -> None:
        gather(engine)
        assert submitted.wait(60)
        leaving[0].cancel()

    monkeypatch.setattr(Engine, "_gather", gather_and_leave)
    gate.open()
    leaving.append(engine.submit(CLIPS[0], ENGLISH, begin))
    submitted.set()
    with pytest.raises(CancelledError):
        leaving[0].result(60)
    assert engine.submit(CLIPS[1], ENGLISH, begin).result(60) == system.transcribe(CLIPS[1].samples)[0]


def test_a_broken_one_costs_no_neighbour(system: Transcriber, gate: Gate, engine: Engine) -> None:
    begin = partial(Decoder, system, "en")
    broken = Named("file", np.full(8_000, np.nan, dtype=np.float32))
    first = [engine.submit(clip, ENGLISH, begin) for clip in (CLIPS[0], broken)]
    gate.stand()
    assert isinstance(first[1].exception(60), UserError)
    gate.step(2)
    second = [engine.submit(clip, ENGLISH, begin) for clip in (broken, CLIPS[1])]
    gate.open()
    assert "expected floats" in str(second[0].exception(60))
    assert [job.result(60) for job in (first[0], second[1])] == [
        system.transcribe(clip.samples)[0] for clip in CLIPS[:2]
    ]


class Breaking(Decoder):
    """Whose steps fail where more than one item is decoded, as for want of memory."""

    def step(self) -> Mapping[int, Any]:
        if len(self._clips) > 1:
            raise torch.OutOfMemoryError("found no memory")
        return super().step()


class Full(Decoder):
    """Which has no room beside what runs."""

    def add(self, items: Sequence[Any], way: Any) -> list[int]:
        if len(self._clips) + len(items) > 1:
            raise torch.OutOfMemoryError("found no memory")
        return super().add(items, way)


@pytest.mark.parametrize("kind", [Breaking, Full])
def test_what_has_no_room_together_is_decoded_one_by_one(
    kind: type[Decoder], tiny_config: SpeechLlmConfig, gate: Gate, engine: Engine
) -> None:
    system = system_of(tiny_config, "float32")
    begin = partial(kind, system, "en")
    jobs = [engine.submit(clip, ENGLISH, begin) for clip in CLIPS]
    gate.open()
    assert [job.result(60) for job in jobs] == [system.transcribe(clip.samples)[0] for clip in CLIPS]


class Refusing(Decoder):
    """Whose steps fail where the item of three tokens is decoded, whatever is beside it."""

    begun = 0

    def __init__(self, system: Transcriber) -> None:
        super().__init__(system, "en")
        type(self).begun += 1
        self._refused: set[int] = set()

    def add(self, items: Sequence[Any], way: Any) -> list[int]:
        numbers = super().add(items, way)
        self._refused |= set(numbers if way.max_tokens == 3 else ())
        return numbers

    def drop(self, number: int) -> None:
        super().drop(number)
        self._refused.discard(number)

    def step(self) -> Mapping[int, Any]:
        if self._refused:
            raise ClipError("refused")
        return super().step()


@pytest.mark.parametrize("place", [0, 5, 7])
def test_of_many_a_refused_one_is_found_by_halves(tiny_config: SpeechLlmConfig, gate: Gate, place: int) -> None:
    system, engine = system_of(tiny_config, "float32"), Engine(8, gate.watch)
    begin = partial(Refusing, system)
    ways = [Asking(max_tokens=3 if number == place else 5) for number in range(8)]
    Refusing.begun = 0
    try:
        with engine._changed:  # so that all begin together
            jobs = [engine.submit(asked(number % 4), way, begin) for number, way in enumerate(ways)]
        gate.open()
        assert str(jobs.pop(place).exception(60)) == "refused"
        rest = [number for number in range(8) if number != place]
        assert [job.result(60).text for job in jobs] == [answered(system, number % 4, 5) for number in rest]
    finally:
        engine.end()
    # Of 8, 4 and 2, both halves have a batch of their own.
    assert Refusing.begun == 1 + 2 * 3 and gate.sizes[0] == 8


def test_another_system_gets_its_turn(tiny_config: SpeechLlmConfig, gate: Gate, engine: Engine) -> None:
    systems = [system_of(tiny_config, "float32", seed) for seed in (0, 1)]
    begins, ended = [partial(Decoder, system, "en") for system in systems], Ended()
    jobs = [ended.note("first", engine.submit(asked(0), Asking(max_tokens=4), begins[0]))]
    gate.stand()
    other = ended.note("other", engine.submit(asked(1), Asking(max_tokens=4), begins[1]))
    jobs += [ended.note("later", engine.submit(asked(row % 4), Asking(max_tokens=4), begins[0])) for row in range(30)]
    gate.open()
    assert other.result(60).text == answered(systems[1], 1, 4)
    assert len([job.result(60) for job in jobs]) == 31
    # Beside the first, at most as many as a batch has places.
    assert ended.names.index("other") <= 1 + 4


def test_what_waits_is_decoded_before_the_end(tiny_config: SpeechLlmConfig, gate: Gate, engine: Engine) -> None:
    system = system_of(tiny_config, "float32")
    begin = partial(Decoder, system, "en")
    jobs = [engine.submit(asked(row % 4), Asking(max_tokens=6), begin) for row in range(9)]
    gate.stand()
    ending = threading.Thread(target=engine.end)
    ending.start()
    gate.open()
    ending.join(60)
    assert not ending.is_alive() and all(job.done() for job in jobs)
    assert [job.result().text for job in jobs] == [answered(system, row % 4, 6) for row in range(9)]
    with pytest.raises(RuntimeError, match="has ended"):
        engine.submit(asked(0), Asking(max_tokens=6), begin)

